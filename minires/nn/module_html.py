"""What a notebook shows of a network: its modules, which unfold, with counts of parameters."""

from __future__ import annotations

from html import escape
from typing import Any

from minires import markup
from minires.nn.parameter import Uninitialized


def module_html(net: Any) -> str:
    """The module with all below it; the first level is open."""
    mode = "training mode" if net.training else "evaluation mode"
    frozen = sum(
        p.numel()
        for p in net.parameters()
        if not isinstance(p, Uninitialized) and not p.requires_grad
    )
    facts = [_count(net), mode, *([f"{frozen:,} frozen"] if frozen else [])]
    head = f"<b>{escape(type(net).__name__)}</b> · {' · '.join(facts)}"
    if not net._modules:
        return markup.line(head, markup.code(net))
    return markup.details(head, _children(net), is_open=True)


def _children(net: Any) -> str:
    parts = []
    for name, child in net._modules.items():
        label = f"<b>{escape(name)}</b>"
        if child._modules:
            head = f"{label} {escape(type(child).__name__)} · {_count(child)}"
            parts.append(markup.details(head, _children(child)))
        else:
            count = [_count(child)] if any(True for _ in child.parameters()) else []
            parts.append(markup.line(f"{label} {markup.code(child)}", *count))
    return "".join(parts)


def _count(net: Any) -> str:
    """How many parameters it has, shared ones once."""
    params = list(net.parameters())
    if any(isinstance(p, Uninitialized) for p in params):
        return "parameters are known after the first input"
    total = sum(p.numel() for p in params)
    return "1 parameter" if total == 1 else f"{total:,} parameters"
