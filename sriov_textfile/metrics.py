"""Family: a metric with its samples, as collectors return it."""

from __future__ import annotations

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def labels(**pairs: str) -> str:
    """Return a label set in the text format, such as `{pf="ens1f0",vf="1"}`.

    Names are in alphabetical order, as Go's client library writes them. Values are escaped as
    the Prometheus text format 0.0.4 requires. Build the text once per device and use it for all of
    the device's samples: building it is most of the work of writing a sample.
    """
    texts = [f'{name}="{_escape(value)}"' for name, value in sorted(pairs.items())]
    return "{" + ",".join(texts) + "}"


def _escape(value: str) -> str:
    if value.isascii() and not ("\\" in value or '"' in value or "\n" in value):
        return value
    # A netdev's name may contain any bytes, which os.fsdecode turns into lone surrogates. They
    # become question marks here, because Prometheus rejects a page that is not UTF-8.
    return value.encode("utf-8", "replace").decode("utf-8").translate(_ESCAPES)


class Family:
    """A metric: name, type ("counter" or "gauge"), help, and one value for each label set.

    `samples` maps a label set, as labels() returns it, to its value. A repeated series makes
    node_exporter reject the whole page, so the first value is kept, and `repeated` counts the
    others by label set.
    """

    __slots__ = ("help", "name", "repeated", "samples", "type")

    def __init__(self, name: str, type: str, help: str) -> None:
        self.name = name
        self.type = type
        self.help = help
        self.samples: dict[str, int | float] = {}
        self.repeated: dict[str, int] = {}

    def add(self, labels: str, value: int | float) -> None:
        """Add a sample; an integer of any size is written exactly."""
        if labels in self.samples:
            self.repeated[labels] = self.repeated.get(labels, 0) + 1
        else:
            self.samples[labels] = value
