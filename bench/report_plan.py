"""What a report measures: runs of the programs, each about one subject."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPERATIONS = "training,inference,backward"
FORCED_AVX2 = {"EXACTNORM_TARGET": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

COMPILED_SHAPES = ["32,256,56,56", "32,256,14,14", "32,512,7,7"]
# PyTorch takes a second on the large ones of the nine in this memory.
NOTEBOOK_SHAPES = ["32,64,112,112", "32,64,56,56", "32,128,28,28", "32,256,14,14", "32,512,7,7"]
NOTEBOOK_DENSE_SHAPES = ["8192,512", "1024,256"]
DATA_SHAPES = ["32,64,56,56", "32,256,14,14"]
# Layers of three networks at batch 16 and 112 pixels: a selection of those up to 8 MB.
NETWORKS = {
    "ResNet-18": ["16,64,28,28", "16,128,14,14", "16,256,7,7", "16,512,4,4"],
    "MobileNetV2": ["16,32,56,56", "16,144,28,28", "16,192,14,14", "16,576,7,7"],
    "DenseNet-121": ["16,128,28,28", "16,224,14,14", "16,480,14,14", "16,800,7,7"],
}
NETWORK_DENSE_SHAPES = ["256,1024", "1024,512", "64,64"]
# Of a network's middle, of its beginning, and 98 MB of float32.
LAYER_SHAPES = ["16,64,28,28", "16,128,14,14", "32,64,56,56", "32,64,112,112"]
# In cache and out of it.
FUSED_SHAPES = ["16,64,28,28", "32,256,14,14", "32,512,7,7", "32,64,56,56", "32,64,112,112"]
# 98 MB each.
LARGE_SHAPES = ["32,64,112,112", "32,256,56,56"]
# 8 MB: one channel, and 64. The peer that takes numbers one by one needs a second for it.
MOMENTS_SHAPES = ["2097152,1", "32768,64"]
# From 1 KB to 256 MB of float32.
SIZES = [
    "2,64,1,2", "8,64,1,2", "32,64,1,2", "32,64,2,4", "32,64,4,8", "32,64,8,16",
    "32,64,16,32", "32,64,32,64", "32,64,64,128", "32,64,128,256",
]  # fmt: skip
# 2 GB, in one layout: checking the answers takes long.
LARGEST_SIZE = "32,64,512,512"


def blocked_layout() -> str:
    """The one that oneDNN has kernels for on this processor."""
    return "nChw16c" if "avx512f" in Path("/proc/cpuinfo").read_text() else "nChw8c"


@dataclass(frozen=True)
class Run:
    """One start of a program. Subjects are what tables and goals ask for."""

    subject: str
    program: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*variables, self.program, *self.arguments])


@dataclass(frozen=True)
class Plan:
    """`shapes` replaces every set by a few shapes; with None the sets are measured."""

    threads: int
    rounds: int
    seconds: float
    # Of the peers that a build may lack, those that it has.
    optional_peers: frozenset[str]
    shapes: list[str] | None = None
    dense_shapes: list[str] | None = None

    def runs(self) -> list[Run]:
        images = _shapes(self.shapes) if self.shapes else ["--set", "resnet50"]
        dense = _shapes(self.dense_shapes) if self.dense_shapes else ["--set", "dense"]
        return [
            *self._onednn(images, dense),
            *self._alone(images),
            *self._python(images, dense),
            *self._networks(),
            *(self._baseline() if "baseline" in self.optional_peers else ()),
            self._moments(),
            self._layers(),
        ]

    def _onednn(self, images: list[str], dense: list[str]) -> Iterator[Run]:
        plain = ["--layout", "nchw,nhwc"]
        step = ["--op", "training,backward"]
        # Whichever of its builds is the fastest for a row.
        peer = ["--peer", "onednn"]
        yield self._bench("onednn", [*images, *plain, "--op", OPERATIONS, *peer])
        yield self._bench("dense", [*dense, "--layout", "nc", "--op", OPERATIONS, *peer])
        yield self._bench("blocked", [*images, *plain, *step, *peer, "--peer-layout", blocked_layout()])
        if "libxsmm" in self.optional_peers:
            yield self._bench("libxsmm", [*images, *plain, *step, "--peer", "libxsmm"])
        shapes = _shapes(self.shapes or FUSED_SHAPES)
        yield self._bench("fused_relu", [*shapes, *plain, "--op", "training+relu,backward+relu", *peer])
        yield self._bench("avx2", [*images, *plain, *step, *peer], environment=FORCED_AVX2)
        for data in ("relu", "wide"):
            shapes = _shapes(self.shapes or DATA_SHAPES)
            yield self._bench(data, [*shapes, *plain, *step, *peer, "--data", data])

    def _alone(self, images: list[str]) -> Iterator[Run]:
        """Beside what the memory allows."""
        every_operation = ["--op", OPERATIONS]
        yield self._bench("strided", [*images, "--layout", "nChw16c,hwcn", *every_operation])
        yield self._bench("small", ["--shape", "32,64", "--layout", "nc", *every_operation], threads=1)
        for threads in dict.fromkeys([1, self.threads]):
            sizes = _shapes(self.shapes or SIZES)
            yield self._bench("sizes", [*sizes, "--layout", "nchw,nhwc", *every_operation], threads=threads)
            if not self.shapes:
                largest = ["--shape", LARGEST_SIZE, "--layout", "nchw", "--op", "training"]
                yield self._bench("sizes", largest, threads=threads)

    def _python(self, images: list[str], dense: list[str]) -> Iterator[Run]:
        plain = ["--layout", "nchw,nhwc"]
        step = ["--op", "training,inference,training+backward"]
        notebook = _shapes([*(self.shapes or NOTEBOOK_SHAPES), *(self.dense_shapes or NOTEBOOK_DENSE_SHAPES)])
        compiled = _shapes(self.shapes or COMPILED_SHAPES)
        for subject, arguments in {
            "pytorch": [*images, *plain, *step, "--peer", "pytorch"],
            "dense_python": [*dense, "--layout", "nc", *step, "--peer", "pytorch"],
            "notebook": [
                *notebook, "--layout", "hwcn,cn", "--op", "training,training+backward", "--peer", "pytorch,numpy",
            ],
            "onnxruntime": [*images, "--layout", "nchw", "--op", "inference", "--peer", "onnxruntime"],
            "compile": [*compiled, *plain, "--op", "inference,training+backward", "--peer", "compile"],
        }.items():  # fmt: skip
            yield Run(subject, "python_peers", [*arguments, *self._effort(self.threads)])

    def _networks(self) -> Iterator[Run]:
        """Warm, as everything else, and as it is met in a network."""
        images = self.shapes or [shape for shapes in NETWORKS.values() for shape in shapes]
        shapes = _shapes([*images, *(self.dense_shapes or NETWORK_DENSE_SHAPES)])
        arguments = [*shapes, "--layout", "nchw,nhwc,nc", "--op", OPERATIONS]
        for state, options in {"warm": [], "cold": ["--cold"]}.items():
            yield self._bench(f"networks_{state}", [*arguments, "--peer", "onednn", *options])
            kernels = [*arguments, "--peer", "kernels", *options, *self._effort(self.threads)]
            yield Run(f"kernels_{state}", "python_peers", kernels)

    def _baseline(self) -> Iterator[Run]:
        """Beside an older build of the library."""
        networks = self.shapes or [shape for shapes in NETWORKS.values() for shape in shapes]
        dense = self.dense_shapes or NETWORK_DENSE_SHAPES
        step = ["--op", "training,backward", "--peer", "baseline"]
        yield self._bench("baseline", [*_shapes([*networks, *dense]), "--layout", "nchw,nhwc,nc", *step])
        yield self._bench("baseline_large", [*_shapes(self.shapes or LARGE_SHAPES), "--layout", "nchw,nhwc", *step])

    def _moments(self) -> Run:
        """One thread, as the peers have no more."""
        effort = ["--rounds", str(self.rounds), "--seconds", str(self.seconds), "--json"]
        return Run("moments", "moments", [*_shapes(self.dense_shapes or MOMENTS_SHAPES), *effort])

    def _layers(self) -> Run:
        """With activation and residual, and in each dtype."""
        return Run("layers", "layers", [*_shapes(self.shapes or LAYER_SHAPES), *self._effort(self.threads)])

    def _bench(
        self, subject: str, arguments: list[str], threads: int | None = None, environment: dict[str, str] | None = None
    ) -> Run:
        effort = self._effort(threads or self.threads)
        return Run(subject, "exactnorm_bench", [*arguments, *effort], environment or {})

    def _effort(self, threads: int) -> list[str]:
        effort = ["--threads", threads, "--rounds", self.rounds, "--seconds", self.seconds, "--json"]
        return [str(word) for word in effort]


def _shapes(shapes: list[str]) -> list[str]:
    return [word for shape in shapes for word in ("--shape", shape)]
