"""Config: what the command line asked for, fixed for the life of the program."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re


class Config:
    """The value of every flag (flags.py has the table), and where rtnetlink is spoken.

    Built once, from the command line; assigning to it afterwards raises AttributeError. A
    frozen dataclass would say the same, but importing dataclasses takes longer than a whole
    collection on a small host.
    """

    collectors: frozenset[str]  # names of the collectors that are on
    vfstats_priority: tuple[str, ...]  # readers of VF counters, in the order they are asked
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
    rate_burst: int
    rate_limit: int
    log_level: str
    log_format: str
    rtnetlink: str  # path of a unix socket that speaks rtnetlink; "" is the kernel

    def __init__(self, **settings: object) -> None:
        self.__dict__.update(settings)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Config is fixed: cannot set {name}")
