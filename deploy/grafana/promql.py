"""Pieces that the dashboards' expressions share."""

MODEL = 'model=~"$model"'
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


def once(expr: str, *labels: str) -> str:
    """Each router's series once: every Front shows those of all routers, so several instances may have the same."""
    return f"max by ({', '.join(('model', 'router', *labels))}) ({expr})"


def quantile(number: float, buckets: str, *labels: str) -> str:
    """A quantile of histograms; `labels` stay apart."""
    return f"histogram_quantile({number}, sum by ({', '.join((*labels, 'le'))}) ({buckets}))"


def mean(series: str, labels: str, *by: str) -> str:
    """A router's histogram's mean over the window, absent where nothing was observed."""
    total, count = (once(rate(f"{series}_{part}", labels), *by) for part in ("sum", "count"))
    kept = ", ".join(("model", *by))
    return f"sum by ({kept}) ({total}) / (sum by ({kept}) ({count}) > 0)"
