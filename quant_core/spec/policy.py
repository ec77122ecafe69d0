"""`LayerPolicy` and `Policy`: the specs of a layer and of a whole network, with a versioned JSON form."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quant_core.spec.kv_cache import require_kv
from quant_core.spec.quant_spec import FLOAT, QuantSpec, parse
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from quant_core.util.text import given

SCHEMA = "bitfront.policy/1"
NONE = "none"
TRANSFORMS = (NONE, "smooth", "rotate")
"""Changes of the float network before it is quantized (`quant_core.transforms`)."""


@dataclass(frozen=True, slots=True)
class LayerPolicy:
    """The specs of a layer's weight and of its INPUT activation."""

    weight: QuantSpec = FLOAT
    activation: QuantSpec = FLOAT

    def __str__(self) -> str:
        return f"weight={self.weight},activation={self.activation}"


class Policy(Mapping[str, LayerPolicy]):
    """Qualified layer name -> `LayerPolicy`, immutable, hashable, in network order; the transform of the network; its KV cache.

    Args:
        layers: in network order.
        transform: of `TRANSFORMS`.
        kv: the format of the keys and values of attention (`quant_core.spec.kv_cache`).

    Raises:
        InputError: an unknown transform, or a format that a KV cache cannot have.
    """

    __slots__ = ("_hash", "_kv", "_layers", "_transform")

    def __init__(self, layers: Mapping[str, LayerPolicy], transform: str = NONE, kv: QuantSpec = FLOAT) -> None:
        if transform not in TRANSFORMS:
            raise unknown("network transform", str(transform), TRANSFORMS)
        self._layers, self._transform, self._kv = dict(layers), transform, require_kv(kv)
        self._hash: int | None = None  # computed when asked for: most policies of a record that is read are never compared

    @property
    def transform(self) -> str:
        """The change of the float network before it is quantized."""
        return self._transform

    @property
    def kv(self) -> QuantSpec:
        """The format of the keys and values of attention."""
        return self._kv

    def with_layers(self, layers: Mapping[str, LayerPolicy]) -> "Policy":
        """Return the policy of other layers under the same transform, with the same KV cache."""
        return Policy(layers, self._transform, self._kv)

    def __getitem__(self, name: str) -> LayerPolicy:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((*self._layers.items(), self._transform, self._kv))
        return self._hash

    def __reduce__(self) -> tuple[type["Policy"], tuple[dict[str, LayerPolicy], str, QuantSpec]]:
        return Policy, (self._layers, self._transform, self._kv)  # another process hashes texts otherwise

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Policy):
            return False
        return self._layers == other._layers and self._transform == other._transform and self._kv == other._kv

    def __repr__(self) -> str:
        return f"Policy({self.id}, {len(self)} layers)"

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of the SHA-256 of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, object]:
        """Return the versioned plain form; `Policy.from_json(p.to_json()) == p`."""
        layers = {name: {"weight": str(layer.weight), "activation": str(layer.activation)} for name, layer in self.items()}
        data: dict[str, object] = {"schema": SCHEMA, "layers": layers}
        data |= {} if self._transform == NONE else {"transform": self._transform}
        return data if self._kv.is_float else data | {"kv": str(self._kv)}

    @staticmethod
    def from_json(data: object) -> "Policy":
        """Read the plain form.

        Raises:
            InputError: naming the layer and the field that is wrong.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InputError(f"not a policy of this version: schema {given(schema)} given, {SCHEMA!r} needed.")
        layers = data.get("layers")
        if not isinstance(layers, dict) or not layers:
            raise InputError(
                'policy has no \'layers\' table; write {"layer name": {"weight": "int4:channel:mse", "activation": "int8:tensor"}}.'
            )
        transform = data.get("transform", NONE)
        if transform not in TRANSFORMS:
            raise InputError(f"policy transform {given(transform)} given; known: {', '.join(TRANSFORMS)}.")
        try:
            kv = require_kv(parse(str(data.get("kv", FLOAT))))
        except InputError as error:
            raise InputError(f"policy: {error}") from None
        return Policy({name: _layer_from_json(name, entry) for name, entry in layers.items()}, transform, kv)


def require_float_kv(policy: Policy) -> None:
    """Refuse a policy with a quantized KV cache where weights are learned.

    Raises:
        InputError: it has one.
    """
    if not policy.kv.is_float:
        raise InputError(
            f"policy {policy.id} has kv = {policy.kv}: keys and values are simulated without training. Evaluate it at fidelity 'ptq' or "
            "'adaround', or train it with kv = 'float'."
        )


def _layer_from_json(name: str, entry: object) -> LayerPolicy:
    if not isinstance(entry, dict) or not set(entry) <= {"weight", "activation"}:
        raise InputError(f"policy layer {given(name)}: {given(entry)} given; a table with 'weight' and 'activation' is needed.")
    specs = {}
    for slot, text in entry.items():
        try:
            specs[slot] = parse(str(text))
        except InputError as error:
            raise InputError(f"policy layer {given(name)}, {slot}: {error}") from None
    return LayerPolicy(**specs)


def parse_layer_policy(text: str) -> LayerPolicy:
    """Read `weight=SPEC,activation=SPEC`; a part left out is float.

    Raises:
        InputError: with the part that was not understood.
    """
    specs: dict[str, QuantSpec] = {}
    for part in text.split(","):
        slot, equals, spec = part.strip().partition("=")
        if not equals or slot not in ("weight", "activation") or slot in specs:
            raise InputError(f"{part.strip()!r} in {text!r}; write 'weight=int4:channel:mse,activation=int8:tensor:ema', each once.")
        specs[slot] = parse(spec)
    return LayerPolicy(**specs)
