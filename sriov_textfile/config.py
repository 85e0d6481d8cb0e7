"""Config: the settings from the command line, immutable."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from dataclasses import dataclass
else:

    def dataclass(**_unused):
        """Stand in for the real decorator, which takes longer to import than a small collection."""
        return lambda cls: cls


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; flags.config() makes them from the command line."""

    collectors: frozenset[str]  # names of the collectors that are on
    vfstats_priority: tuple[str, ...]  # readers of VF counters, in the order to try them
    pf_include: re.Pattern[str] | None
    pf_exclude: re.Pattern[str] | None
    cpucheckpoint: str
    kubecgroup: str
    kubeletsocket: str
    nodecpuinfo: str
    sysbuspci: str
    sysclassnet: str
    textfile_path: str  # "" is standard output
    interval: float  # seconds between collections; 0 is a single collection
    timeout: float  # seconds for one whole collection
    listen_address: tuple[str, int]  # host ("" is every address) and port
    web_config_file: str  # "" is plain HTTP for everyone
    web_systemd_socket: bool  # instead of the address
    rate_burst: int
    rate_limit: int
    log_level: str
    log_format: str
    rtnetlink: str  # unix socket of a simulated host; "" is the kernel

    if not TYPE_CHECKING:

        def __init__(self, **settings):
            self.__dict__.update(settings)

        def __setattr__(self, name, value):
            raise AttributeError(f"Config is immutable: cannot set {name}")
