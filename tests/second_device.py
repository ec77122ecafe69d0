"""A second device for tests, `twin`: its tensors lie in memory of their own, and every mix with tensors of the CPU fails as on a GPU.

It is torch's PrivateUse1 backend, in Python: each operation runs on views of the same memory as CPU tensors, so that values are the CPU's
bit for bit. `.numpy()`, a CPU operand, a CPU generator and compiled loops fail; copies to the CPU are counted.
"""

import ctypes
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "twin"
_MIXES = {"aten::_copy_from", "aten::copy_", "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}
_EXTERNAL = 12
_CODES = {torch.bool: 6, torch.bfloat16: 4, torch.uint8: 1, torch.complex64: 5, torch.complex128: 5}
copies: Counter[str] = Counter()
"""Elements that were copied to the CPU: by `item` one at a time, by `to` in whole tensors."""


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Managed(ctypes.Structure):
    """DLPack's DLManagedTensor, a struct of the C interface."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int),
        ("device_id", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("dtype", _Type),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_CPU_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_SET = torch.ops.aten.set_.source_Storage_storage_offset
_libc = ctypes.CDLL(None)
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_FREE = ctypes.cast(_libc.free, ctypes.c_void_p).value
_HEAD = -(-(ctypes.sizeof(_Managed) + 8) // 64) * 64


def _allocate(elements: int, dtype: torch.dtype) -> Tensor:
    """Return a new tensor of this device, [elements]; its memory goes when its storage does."""
    size = torch.empty(0, dtype=dtype).element_size()
    block = _libc.malloc(_HEAD + max(elements, 1) * size)
    length = ctypes.c_int64.from_address(block + ctypes.sizeof(_Managed))
    length.value = elements
    managed = _Managed.from_address(block)
    managed.data, managed.device_type, managed.device_id, managed.ndim = block + _HEAD, _EXTERNAL, 0, 1
    managed.dtype = _Type(_CODES.get(dtype, 2 if dtype.is_floating_point else 0), 8 * size, 1)
    managed.shape, managed.strides, managed.byte_offset = ctypes.addressof(length), None, 0
    managed.context, managed.deleter = None, _FREE
    with torch.inference_mode(False):  # `parameter.data = tensor` takes tensors of inference mode on torch's built-in devices only
        return torch.from_dlpack(_capsule(block, b"dltensor", None))


def _strided(x: Tensor, like: Tensor) -> Tensor:
    """Return a view of the storage of `x` with the sizes of a CPU tensor."""
    return torch.ops.aten.as_strided.default.redispatch(_CPU_KEY, x, like.size(), like.stride(), like.storage_offset())


def _as_cpu(x: Any) -> Any:
    """Return a CPU tensor over the same memory."""
    if not isinstance(x, Tensor) or x.device.type != NAME:
        return x
    storage = x.untyped_storage()
    elements = storage.nbytes() // x.element_size()
    if not elements:
        return torch.empty(x.shape, dtype=x.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    return torch.frombuffer(memory, dtype=x.dtype, count=elements).as_strided(x.size(), x.stride(), x.storage_offset())


def _as_twin(x: Any) -> Any:
    """Return a copy on this device, with the strides of the CPU tensor where it is dense."""
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        return x
    x = x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.contiguous()
    like = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype)
    made = _strided(_allocate(x.numel(), x.dtype), like)
    if x.numel():
        _as_cpu(made).copy_(x)
    return made


def _refuse_mixes(name: str, leaves: list[Any]) -> None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if any(x.device.type == "cpu" and x.dim() for x in tensors) and any(x.device.type == NAME for x in tensors) and name not in _MIXES:
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found at least two devices, cpu and {NAME}")
    if any(isinstance(leaf, torch.Generator) and leaf.device.type != NAME for leaf in leaves):
        raise RuntimeError(f"{name}: Expected a '{NAME}' device type for generator but found 'cpu'")


def _resize(target: Any, content: Any) -> None:
    """Give an output the sizes and values of its CPU view, where the operation resized that."""
    if isinstance(target, Tensor) and target.size() != content.size():
        made = _as_twin(content)
        _SET.redispatch(_CPU_KEY, target, made.untyped_storage(), 0, made.size(), made.stride())


def _with_scalars(schema: Any, args: Any) -> list[Any]:
    """Turn plain numbers back into tensors where the operation takes tensors, in the type of the first one unless that loses a fraction."""
    first = next((arg for arg in args if isinstance(arg, Tensor)), torch.empty(0))

    def scalar(value: float) -> Tensor:
        whole = isinstance(value, int)
        return torch.tensor(value, dtype=first.dtype if whole or first.is_floating_point() else torch.get_default_dtype())

    kinds = [str(argument.type) for argument in schema.arguments]
    return [scalar(arg) if kind == "Tensor" and isinstance(arg, int | float) else arg for kind, arg in zip(kinds, args, strict=False)]


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    name, schema = op.name(), op._schema
    leaves = tree_leaves((args, kwargs))
    _refuse_mixes(name, leaves)
    if name.startswith("aten::set_."):  # of storage and sizes alone: no memory is touched
        return op.redispatch(_CPU_KEY, *args, **kwargs)
    if name == "aten::_copy_from":
        source, target = args[:2]
        if target.device.type == "cpu":
            copies["elements"] += source.numel()
        _as_cpu(target).copy_(_as_cpu(source))
        return target
    if name == "aten::_local_scalar_dense":
        copies["items"] += 1
    cpu_args, cpu_kwargs = tree_map(_as_cpu, (args, kwargs))
    if "device" in cpu_kwargs:
        cpu_kwargs["device"] = torch.device("cpu")
    written = [a.name if a.name in kwargs else i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    pairs = [(kwargs[key], cpu_kwargs[key]) if isinstance(key, str) else (args[key], cpu_args[key]) for key in written]
    out = op(*_with_scalars(schema, cpu_args), **cpu_kwargs)
    for target, content in pairs:
        _resize(target, content)
    aliases = [r.alias_info for r in schema.returns]
    if written and aliases and aliases[0] is not None:
        return pairs[0][0] if len(pairs) == 1 else tuple(target for target, _ in pairs)
    if aliases and aliases[0] is not None:
        base = args[0]
        return tree_map(lambda x: _strided(base, x) if isinstance(x, Tensor) else x, out)
    return tree_map(_as_twin, out)


class _Module:
    """`torch.twin`: the functions that torch looks for in the module of a device."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Nothing to seed: numbers without a generator come from that of the CPU."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        """Return the state of no generator."""
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        """Nothing to set."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _clone_storage(storage: Any) -> Any:
    """Clone a storage, which `copy.deepcopy` of a network does: torch would ask an allocator that this device does not have."""
    if storage.device.type != NAME:
        return _CLONE(storage)
    made = _allocate(storage.nbytes(), torch.uint8).untyped_storage()
    if storage.nbytes():
        ctypes.memmove(made.data_ptr(), storage.data_ptr(), storage.nbytes())
    return made


_CLONE = torch.UntypedStorage.clone


def install() -> torch.device:
    """Make the device, once per process; return it."""
    if not _installed:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        torch.UntypedStorage.clone = _clone_storage
        library = torch.library.Library("_", "IMPL")
        library.fallback(_run, "PrivateUse1")
        own = torch.library.Library("aten", "IMPL")
        own.impl("convolution_overrideable", _convolution, "PrivateUse1")
        own.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
        _installed.extend((library, own))
    return torch.device(NAME, 0)


_installed: list[torch.library.Library] = []


def _convolution(*args: Any) -> Any:
    return _run(torch.ops.aten.convolution.default, *args)


def _convolution_backward(*args: Any) -> Any:
    gradient, x, weight, *rest, mask = args
    return _run(torch.ops.aten.convolution_backward.default, gradient, x, weight, [weight.shape[0 if not rest[3] else 1]], *rest, mask)
