from hw_models.schema.device_file import LayerKind
from quant_core.spec.layer import KINDS


def test_the_kinds_of_layers_are_those_of_quant_core() -> None:
    assert LayerKind.__args__ == KINDS  # type: ignore[attr-defined]
