"""Pieces that the dashboards' expressions share."""

# A cluster is a model in a namespace, which is empty where scrapes attach none. Every `by` keeps both.
KEYS = "namespace, model"
NAMESPACE = 'namespace=~"$namespace"'
MODEL = f'{NAMESPACE}, model=~"$model"'
ROUTER = f'{MODEL}, router=~"$router"'
SHARD = f'{MODEL}, shard=~"$shard"'
ROUTER_SHARD = f'{ROUTER}, shard=~"$shard"'
COMPUTE = f'{ROUTER_SHARD}, phase="compute"'


def rate(series: str, labels: str) -> str:
    """A counter's increase a second, over a window that fits the zoom."""
    return f"rate(expertmesh_{series}{{{labels}}}[$__rate_interval])"


def increase(series: str, labels: str) -> str:
    """A counter's increase in the time shown."""
    return f"increase(expertmesh_{series}{{{labels}}}[$__range])"


def _by(*labels: str) -> str:
    """A grouping that keeps clusters apart, and `labels`."""
    return f"by ({', '.join((KEYS, *labels))})"


def once(expr: str, *labels: str) -> str:
    """Each router's series once: every Front shows those of all routers, so several instances may have the same."""
    return f"max {_by('router', *labels)} ({expr})"


def told(expr: str, *labels: str) -> str:
    """What the control plane says, once: every Front has the same report."""
    return f"max {_by(*labels)} ({expr})"


def quantile(number: float, buckets: str, *labels: str) -> str:
    """A quantile of histograms; clusters and `labels` stay apart."""
    return f"histogram_quantile({number}, sum {_by(*labels, 'le')} ({buckets}))"


def mean(series: str, labels: str, *kept: str) -> str:
    """A router's histogram's mean over the window, absent where nothing was observed."""
    total, count = (once(rate(f"{series}_{part}", labels), *kept) for part in ("sum", "count"))
    return f"sum {_by(*kept)} ({total}) / (sum {_by(*kept)} ({count}) > 0)"
