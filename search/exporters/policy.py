"""`policy.json`: the policy by itself, versioned, with the network's layers, readable by `bitfront apply`, `evaluate` and `cost`."""

import json
from pathlib import Path

from quant_core.spec.layer import layers_to_json
from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError
from search.exporters import Bundle, Exported

FILE = "policy.json"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the policy and read it back.

    Raises:
        BitfrontError: the policy that is read back is not the one that was written.
    """
    path = folder / FILE
    path.write_text(json.dumps(bundle.policy.to_json() | {"network": layers_to_json(bundle.layers)}, indent=1) + "\n", encoding="utf-8")
    again = Policy.from_json(json.loads(path.read_text(encoding="utf-8")))
    if again != bundle.policy:
        raise BitfrontError(f"{path} does not read back as policy {bundle.policy.id} but as {again.id}.")
    return Exported((FILE,), {"id": again.id, "layers": len(again)})
