"""Figures of single layers: how sensitive they are, and where the bytes, the time and the energy of a policy go."""

import html

import plotly.graph_objects as go

from quant_core.util.text import shortened
from search.records.layers import LayerFigures
from search.records.palette import FRONT, color, symbol
from search.records.units import shown, title_of, unit_of

LEAST = 1e-6
"""Nats: what moves the outputs less is drawn here."""


def layer_figures_of(layers: LayerFigures) -> list[go.Figure]:
    """Return the sensitivities of the weights, where there are any, and one figure per cost."""
    return [
        *([sensitivity_figure(layers)] if layers.rises.get("weight") else []),
        *(cost_figure(layers, metric) for metric in layers.costs),
    ]


def about(layers: LayerFigures) -> str:
    """Return the sentences beside the figures."""
    said = "Sensitivity: how far the outputs move from the float network's, in nats, when the weights of one layer alone take a format."
    return f"{said} Costs are those of the policy {layers.policy}."


def sensitivity_figure(layers: LayerFigures) -> go.Figure:
    """Return the sensitivities of the layers' weights: layers down, a point per format, farther right what hurts more."""
    of_layer = layers.rises["weight"]
    formats = list(dict.fromkeys(text for row in of_layer.values() for text in row))
    figure = go.Figure()
    for i, text in enumerate(formats):
        names = [name for name in layers.layers if text in of_layer.get(name, {})]
        x = [max(LEAST, of_layer[name][text]) for name in names]
        marker = {"color": color(i), "symbol": symbol(i), "size": 9}
        hover = f"%{{y}}<br>{html.escape(text)}: %{{x:.3g}} nats<extra></extra>"
        figure.add_trace(go.Scatter(x=x, y=names, mode="markers", marker=marker, name=text, hovertemplate=hover))
    figure.update_xaxes(type="log", title_text="sensitivity of the weights [nats]")
    return _by_layer(figure, layers, legend=True)


def cost_figure(layers: LayerFigures, metric: str) -> go.Figure:
    """Return one cost of a policy, a bar per layer."""
    values, unit = layers.costs[metric], unit_of(metric)
    texts = [shown(metric, value) for value in values]
    bars = go.Bar(x=[value / unit.size for value in values], y=list(layers.layers), orientation="h", marker_color=FRONT)
    figure = go.Figure(bars.update(text=texts, textposition="none", hovertemplate="%{y}<br>%{text}<extra></extra>"))
    figure.update_xaxes(title_text=f"{title_of(metric)} [{unit.name}]")
    return _by_layer(figure, layers, legend=False)


def _by_layer(figure: go.Figure, layers: LayerFigures, *, legend: bool) -> go.Figure:
    """Set layers down the vertical axis, in network order, with names that fit."""
    ticks = {"tickmode": "array", "tickvals": list(layers.layers), "ticktext": [shortened(name, 18) for name in layers.layers]}
    order = {"categoryorder": "array", "categoryarray": list(layers.layers)}
    figure.update_yaxes(autorange="reversed", type="category", **order, **(ticks if len(layers.layers) <= 60 else {}))
    below = {"orientation": "h", "y": -0.35, "x": 0, "yanchor": "top"}
    height = max(320, 160 + 18 * len(layers.layers)) + (20 * len(figure.data) if legend else 0)  # a line each on a telephone
    return figure.update_layout(template="plotly_white", height=height, showlegend=legend, legend=below, margin={"l": 60, "r": 20, "b": 60})
