"""A verified segmentation graph in Triton's Python backend: NumPy and ONNX Runtime are all it needs.

Beside this file lies ``model.onnx``, with ``*.onnx.data`` where its weights lie outside. The configuration of the model
says what they are: its parameter ``protoseg.VERSION`` holds their SHA-256, which is compared before anything is
answered, the names of the classes and the precision. ``threads`` and ``max_pixels`` are limits.

One input ``images``, uint8 RGB ``[N,H,W,3]``. Outputs are those of the graph: ``class_map`` ``[N,H,W]``, and
``confidence`` and ``logits`` where they were exported.
"""

import hashlib
import json
import pathlib

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

INPUT, CLASS_MAP = "images", "class_map"
LARGE_PIXELS = 4_000_000
"""After runs with more pixels, memory goes back to the system."""


class TritonPythonModel:
    """Answers the requests of one instance of a model, which Triton hands over several at a time."""

    def initialize(self, args):
        """Open the graph.

        Raises:
            TritonModelException: files, libraries or device are not what they have to be; Triton shows the reason.
        """
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self._title = f"{args['model_name']}, version {args['model_version']}"
        if int(np.__version__.split(".")[0]) >= 2:
            raise self._refusal(
                f"NumPy {np.__version__} is installed, with which Triton's Python backend answers requests with empty "
                "outputs and reports success. Install numpy<2 for the Python of this backend."
            )
        facts = parameters.get(f"protoseg.{args['model_version']}")
        if facts is None:
            raise self._refusal("config.pbtxt says nothing about this version: add it with `protoseg serve-repo`.")
        facts = json.loads(facts)
        self._classes = len(facts["metadata"]["classes"]["names"])
        self._max_batch = max(1, config["max_batch_size"])
        self._max_pixels = int(parameters.get("max_pixels", 50_000_000))
        self._size = tuple(int(side) for side in config["input"][0]["dims"])[:2]
        self._on_gpu = args["model_instance_kind"] == "GPU"
        graph = self._checked_graph(args, facts["sha256"])
        self._session = self._open(graph, int(parameters.get("threads", 0)), int(args["model_instance_device_id"]))
        self._outputs = [output.name for output in self._session.get_outputs()]

    def execute(self, requests):
        """One response for each request, in order; a request that cannot be answered does not hurt the others."""
        responses = [None] * len(requests)
        waiting = {}
        for number, request in enumerate(requests):
            try:
                images = self._images(request)
                wanted = [name for name in self._outputs if name in request.requested_output_names()]
                waiting.setdefault(images.shape[1:3], []).append((number, images, wanted))
            except ValueError as error:
                responses[number] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        for members in waiting.values():
            for run in self._runs(members):
                for (number, _, _), response in zip(run, self._answers(run), strict=True):
                    responses[number] = response
        return responses

    def _refusal(self, reason):
        return pb_utils.TritonModelException(f"{self._title}: {reason}")

    def _checked_graph(self, args, expected):
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        files = [folder / "model.onnx", *sorted(folder.glob("*.onnx.data"))]
        digests = [_sha256(file) for file in files]
        found = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        if found != expected:
            raise self._refusal(
                f"{files[0]} is not the file that was verified: its SHA-256 is {found}, config.pbtxt says {expected}. "
                "It was damaged or replaced: add the bundle again with `protoseg serve-repo`."
            )
        return files[0]

    def _open(self, graph, threads, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = ["CPUExecutionProvider"]
        if self._on_gpu:
            providers = [("CUDAExecutionProvider", {"device_id": device}), *providers]
        session = ort.InferenceSession(str(graph), options, providers=providers)
        found = session.get_providers()[0]
        if self._on_gpu and found != "CUDAExecutionProvider":
            raise self._refusal(
                f"it is to run on a GPU, and ONNX Runtime offers {found}: install onnxruntime-gpu for the Python of "
                "this backend, or make the repository without --gpu."
            )
        return session

    def _images(self, request):
        """``[N,H,W,3]`` uint8. Raises ValueError where the request holds no images that the model takes."""
        tensor = pb_utils.get_input_tensor_by_name(request, INPUT)
        images = None if tensor is None else tensor.as_numpy()
        if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            found = "nothing" if images is None else f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{INPUT} is uint8 [N,H,W,3], every axis at least 1; got {found}")
        pixels = images.shape[0] * images.shape[1] * images.shape[2]
        if pixels > self._max_pixels:
            raise ValueError(f"a request of {pixels:,} pixels is too large: {self._max_pixels:,} are taken")
        for axis, side, fixed in zip(("height", "width"), images.shape[1:3], self._size, strict=True):
            if fixed not in (-1, side):
                raise ValueError(f"the model takes images of {axis} {fixed} only; got {side}")
        return images

    def _runs(self, members):
        """Requests of one image size, as many at a time as are computed together."""
        run, count, pixels = [], 0, 0
        for member in members:
            images = member[1]
            added, area = len(images), images.shape[0] * images.shape[1] * images.shape[2]
            if run and (count + added > self._max_batch or pixels + area > self._max_pixels):
                yield run
                run, count, pixels = [], 0, 0
            run.append(member)
            count, pixels = count + added, pixels + area
        if run:
            yield run

    def _answers(self, run):
        """A response for every member of a run. Where it fails, each of several members is computed alone."""
        images = run[0][1] if len(run) == 1 else np.concatenate([member[1] for member in run])
        names = [name for name in self._outputs if any(name in wanted for _, _, wanted in run)]
        try:
            arrays = dict(zip(names, self._compute(images, names), strict=True))
        except Exception as error:  # of whatever kind: it is this run's, and the server goes on
            if len(run) > 1:
                return [answer for member in run for answer in self._answers([member])]
            pb_utils.Logger.log_error(f"{self._title}: {error}")
            return [_failure(f"the model failed on images of {list(images.shape)}; the log of the server says why")]
        answers, first = [], 0
        for _, own, wanted in run:
            part = slice(first, first + len(own))
            first += len(own)
            tensors = [pb_utils.Tensor(name, np.ascontiguousarray(arrays[name][part])) for name in wanted]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return answers

    def _compute(self, images, names):
        options = ort.RunOptions()
        if not self._on_gpu and images.size // 3 > LARGE_PIXELS:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        arrays = self._session.run(names, {INPUT: np.ascontiguousarray(images)}, options)
        for name, array in zip(names, arrays, strict=True):
            if len(array) != len(images) or array.shape[-2:] != images.shape[1:3]:
                raise RuntimeError(f"{name} is {list(array.shape)} for images of {list(images.shape)}")
            if name == CLASS_MAP and not 0 <= int(array.min()) <= int(array.max()) < self._classes:
                raise RuntimeError(f"a class map holds the index {array.max()}, and there are {self._classes} classes")
        return arrays


def _failure(message, *code):
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, *code))


def _sha256(file):
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
