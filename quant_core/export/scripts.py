"""The scripts of fresh processes that run exported files: they hold numpy and one runtime alone.

A runtime's script defines `opened(path, **options)`: an object with `names` (of the inputs; None where the file has none, and they are in
order), `run(arrays by name)`, and, for timing, `bind(arrays by name)`, which returns a call without arguments. Options: `fuse` (quantizers
and layers into integer kernels), `threads`, and `still`, the shapes of every call to come. ExecuTorch's runtime needs torch; its files,
LiteRT's and torch's take one example.
"""

ONNXRUNTIME = r"""
import onnxruntime
class opened:
    def __init__(self, path, fuse=True, threads=1, still=None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        if not fuse:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]
    def run(self, given):
        return self.session.run(None, given)[0]
    def bind(self, given):
        binding = self.session.io_binding()
        for name, values in given.items():
            binding.bind_cpu_input(name, values)
        binding.bind_output(self.session.get_outputs()[0].name)
        return lambda: self.session.run_with_iobinding(binding)
"""
OPENVINO = r"""
sys.modules["openvino_telemetry"] = None  # nothing is sent to its vendor
import openvino
class opened:
    def __init__(self, path, fuse=True, threads=1, still=None):
        core = openvino.Core()
        model = core.read_model(path)
        if still:
            model.reshape({value.get_any_name(): list(still[value.get_any_name()]) for value in model.inputs})
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if not fuse:
            options |= {"LP_TRANSFORMS_MODE": "NO", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
        self.request = core.compile_model(model, "CPU", options).create_infer_request()
        self.names = [value.get_any_name() for value in model.inputs]
    def run(self, given):
        self.request.infer(given)
        return self.request.get_output_tensor(0).data
    def bind(self, given):
        self.kept = {name: openvino.Tensor(numpy.ascontiguousarray(values)) for name, values in given.items()}
        for name, values in self.kept.items():
            self.request.set_tensor(name, values)
        return self.request.infer
"""
EXECUTORCH = r"""
import warnings
warnings.simplefilter("ignore")
import torch
from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
from executorch.runtime import Runtime
import executorch.kernels.quantized
class opened:
    names = None
    def __init__(self, path, fuse=True, threads=1, still=None):
        _unsafe_reset_threadpool(threads)
        self.method = Runtime.get().load_program(path).load_method("forward")
    def run(self, given):
        tensors = [torch.from_numpy(numpy.array(values)) for values in given.values()]
        count = max(len(x) for x in tensors if x.dim())
        rows = [self.method.execute([x[i : i + 1] if x.dim() else x for x in tensors])[0].clone() for i in range(count)]
        return torch.cat(rows).numpy()
    def bind(self, given):
        tensors = [torch.from_numpy(numpy.array(values)) for values in given.values()]
        return lambda: self.method.execute(tensors)
"""
LITERT = r"""
from ai_edge_litert.interpreter import Interpreter
class opened:
    def __init__(self, path, fuse=True, threads=1, still=None):
        self.interpreter = Interpreter(model_path=path, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.places = {entry["name"]: entry["index"] for entry in self.interpreter.get_input_details()}
        self.output = self.interpreter.get_output_details()[0]["index"]
        self.names = list(self.places)
    def run(self, given):
        count = max(len(x) for x in given.values() if x.ndim)
        rows = []
        for i in range(count):
            self.bind({name: x[i : i + 1] if x.ndim else x for name, x in given.items()})()
            rows.append(self.interpreter.get_tensor(self.output))
        return numpy.concatenate(rows)
    def bind(self, given):
        for name, values in given.items():
            self.interpreter.set_tensor(self.places[name], values)
        return self.interpreter.invoke
"""
TORCH = r"""
import contextlib, logging, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import torch
with contextlib.suppress(ImportError):
    import torchao.quantization  # the tensors of quantized weights are its
class opened:
    names = None
    def __init__(self, path, fuse=True, threads=1, still=None):
        torch.set_num_threads(threads)
        self.call = torch.export.load(path).module()
    def run(self, given):
        tensors = [torch.from_numpy(numpy.array(values)) for values in given.values()]
        count = max(len(x) for x in tensors if x.dim())
        with torch.no_grad():
            rows = [self.call(*[x[i : i + 1] if x.dim() else x for x in tensors])[0] for i in range(count)]
        return torch.cat(rows).numpy()
    def bind(self, given):
        tensors = [torch.from_numpy(numpy.array(values)) for values in given.values()]
        def call():
            with torch.no_grad():
                self.call(*tensors)
        return call
"""
RUNTIMES = {"onnxruntime": ONNXRUNTIME, "openvino": OPENVINO, "executorch": EXECUTORCH, "litert": LITERT, "torch": TORCH}
RUN = """
import json
model = opened(sys.argv[1], **json.loads(sys.argv[2]))
while (given := read()) is not None:
    write({"output": model.run({name: given[name] for name in model.names or given})})
"""
TIME = """
import json, time
settings = json.loads(sys.argv[1])
clock = getattr(time, settings["clock"])
given = read()
still = {name: values.shape for name, values in given.items()}
calls = []
for path, options in settings["files"]:
    model = opened(path, still=still, **options)
    calls.append(model.bind({name: given[name] for name in model.names or given}))
rows = numpy.zeros((settings["repeats"], len(calls)))
for call in calls:
    call()
for row in rows:
    for i, call in enumerate(calls):
        call()
        begun = clock()
        call()
        row[i] = clock() - begun
write({"seconds": rows})
"""
