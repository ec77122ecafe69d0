"""`Capability`: the codes that a device lets one kind of layer take, and the codes that it runs them as."""

from dataclasses import dataclass

from hw_models.schema.codes import code_of, expand, shorten
from hw_models.schema.device_file import CapabilityTable
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.text import listed


@dataclass(frozen=True)
class Capability:
    """The codes that one kind of layer may take.

    Attributes:
        weights, activations: legal code -> the code that it runs as (itself, or the plateau above it).
        pairs: legal (weight, activation) pair of the codes that run -> the pair that it runs as; None: every combination.
        weight_sign, activation_sign: `signed` (symmetric specs), `unsigned` (affine specs) or `any`.
    """

    weights: dict[str, str]
    activations: dict[str, str]
    pairs: dict[tuple[str, str], tuple[str, str]] | None = None
    weight_sign: str = "any"
    activation_sign: str = "any"

    @staticmethod
    def nothing() -> "Capability":
        """Return the capability for a kind of layer that the device does not run: no code at all."""
        return Capability({}, {})

    @staticmethod
    def of(rule: CapabilityTable) -> "Capability":
        """Read one `[[capability]]` table."""
        pairs = {pair: pair for text in rule.pairs for pair in _pairs(text)}
        plateaus = {pair: _pairs(target)[0] for text, target in rule.pair_plateau.items() for pair in _pairs(text)}
        runs = plateaus | pairs if rule.pairs else None
        return Capability(rule.runs_as("weight"), rule.runs_as("activation"), runs, rule.weight_sign, rule.activation_sign)

    def run_as(self, policy: LayerPolicy) -> tuple[str, str] | None:
        """Return the (weight, activation) codes that `policy` runs as, or None where it is not legal."""
        weight = self.weights.get(code_of(policy.weight))
        activation = self.activations.get(code_of(policy.activation))
        if weight is None or activation is None:
            return None
        if not (_signed(policy.weight, self.weight_sign) and _signed(policy.activation, self.activation_sign)):
            return None
        return self.pairs.get((weight, activation)) if self.pairs is not None else (weight, activation)

    def allows(self, policy: LayerPolicy) -> bool:
        """Tell whether the device runs this choice."""
        return self.run_as(policy) is not None

    def __str__(self) -> str:
        if not self.weights:
            return "nothing: the device does not run layers of this kind"
        text = f"weights {shorten(self.weights)}{_sign(self.weight_sign)}"
        text += f"; activations {shorten(self.activations)}{_sign(self.activation_sign)}"
        if self.pairs is not None:
            text += f"; only in the pairs {listed((f'{w}/{a}' for w, a in sorted(self.pairs)), 100)} (plateaus applied)"
        return text


def _pairs(text: str) -> list[tuple[str, str]]:
    left, right = text.split("/")
    return [(weight, activation) for weight in expand(left) for activation in expand(right)]


def _signed(spec: QuantSpec, needed: str) -> bool:
    return needed == "any" or spec.is_float or spec.symmetric == (needed == "signed")


def _sign(needed: str) -> str:
    return {"any": "", "signed": " (symmetric)", "unsigned": " (affine)"}[needed]
