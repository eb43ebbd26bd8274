"""The one table of models: what each YAML builds, and what was published of it."""

from collections.abc import Iterable
from dataclasses import dataclass

RELEASES = "https://github.com/sunsmarterjie/yolov12/releases/download"

# SHA-256 by `Model.weights`, of files that were taken from the releases themselves: none were yet.
SHA256: dict[str, str] = {}


def release_of(task: str, turbo: bool) -> str:
    """The authors' release that has the models of a task in its layout."""
    return {"segment": "seg", "classify": "cls"}.get(task, "turbo") if turbo else "v1.0"


@dataclass(frozen=True)
class Model:
    """A model that the plugin's YAMLs build.

    `parameters` is the exact count as trained; `parameters_m` (millions) and `gflops` are the published figures of the
    fused model at `imgsz`, counted as `nets.gflops` does. Where nothing was published (pose, obb, e2e, p2, p6)
    they are this implementation's own. AP on COCO val, of boxes and of masks, accuracy on ImageNet (%) and `latency`
    (ms, T4, TensorRT FP16) are the authors': of v1.0 from the paper's Table 1, of the others from the README of
    github.com/sunsmarterjie/yolov12, which gives no AP50.
    """

    name: str
    release: str
    task: str
    parameters: int
    parameters_m: float
    gflops: float
    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    latency: float | None = None
    ap_mask: float | None = None
    top1: float | None = None
    top5: float | None = None

    @property
    def scale(self) -> str:
        return self.name[len("yolov12")]

    @property
    def yaml(self) -> str:
        return f"{self.name}.yaml"

    @property
    def imgsz(self) -> int:
        return 224 if self.task == "classify" else 640

    @property
    def weights(self) -> str | None:
        """Release and file of the authors' trained weights, below `RELEASES`; None where they released none."""
        if self.release not in ("v1.0", "turbo", "seg", "cls"):
            return None
        return f"{self.release}/{self.name.removesuffix('-turbo')}.pt"


# fmt: off
MODELS = {
    model.name: model
    for model in (
        Model("yolov12n", "v1.0", "detect", 2_602_288, 2.6, 6.5, 40.6, 56.7, 43.8, 1.64),
        Model("yolov12s", "v1.0", "detect", 9_284_096, 9.3, 21.4, 48.0, 65.0, 51.8, 2.61),
        Model("yolov12m", "v1.0", "detect", 20_199_168, 20.2, 67.5, 52.5, 69.6, 57.1, 4.86),
        Model("yolov12l", "v1.0", "detect", 26_450_784, 26.4, 88.9, 53.7, 70.7, 58.5, 6.77),
        Model("yolov12x", "v1.0", "detect", 59_210_784, 59.1, 199.0, 55.2, 72.0, 60.2, 11.79),
        Model("yolov12n-turbo", "turbo", "detect", 2_553_904, 2.5, 6.0, ap=40.4, latency=1.60),
        Model("yolov12s-turbo", "turbo", "detect", 9_127_424, 9.1, 19.4, ap=47.6, latency=2.42),
        Model("yolov12m-turbo", "turbo", "detect", 19_670_784, 19.6, 59.8, ap=52.5, latency=4.27),
        Model("yolov12l-turbo", "turbo", "detect", 26_506_496, 26.5, 82.4, ap=53.8, latency=5.83),
        Model("yolov12x-turbo", "turbo", "detect", 59_414_176, 59.3, 184.6, ap=55.4, latency=10.38),
        Model("yolov12n-seg", "seg", "segment", 2_806_672, 2.8, 9.9, ap=39.9, ap_mask=32.8, latency=1.84),
        Model("yolov12s-seg", "seg", "segment", 9_781_920, 9.8, 33.4, ap=47.5, ap_mask=38.6, latency=2.84),
        Model("yolov12m-seg", "seg", "segment", 21_976_992, 21.9, 115.1, ap=52.4, ap_mask=42.3, latency=6.27),
        Model("yolov12l-seg", "seg", "segment", 28_812_704, 28.8, 137.7, ap=54.0, ap_mask=43.2, latency=7.61),
        Model("yolov12x-seg", "seg", "segment", 64_590_656, 64.5, 308.7, ap=55.2, ap_mask=44.2, latency=15.43),
        Model("yolov12n-cls", "cls", "classify", 2_951_112, 2.9, 0.5, top1=71.7, top5=90.5, latency=1.27),
        Model("yolov12s-cls", "cls", "classify", 7_228_840, 7.2, 1.5, top1=76.4, top5=93.3, latency=1.52),
        Model("yolov12m-cls", "cls", "classify", 12_733_224, 12.7, 4.5, top1=78.8, top5=94.4, latency=2.03),
        Model("yolov12l-cls", "cls", "classify", 16_792_872, 16.8, 6.2, top1=79.5, top5=94.5, latency=2.73),
        Model("yolov12x-cls", "cls", "classify", 35_554_504, 35.5, 13.7, top1=80.1, top5=95.3, latency=3.64),
        Model("yolov12n-pose", "pose", "pose", 2_886_715, 2.9, 7.6),
        Model("yolov12s-pose", "pose", "pose", 9_774_155, 9.8, 23.1),
        Model("yolov12m-pose", "pose", "pose", 21_057_753, 21.0, 71.2),
        Model("yolov12l-pose", "pose", "pose", 27_309_369, 27.3, 92.6),
        Model("yolov12x-pose", "pose", "pose", 61_134_489, 61.1, 207.4),
        Model("yolov12n-obb", "obb", "obb", 2_673_955, 2.7, 6.7),
        Model("yolov12s-obb", "obb", "obb", 9_570_275, 9.5, 22.4),
        Model("yolov12m-obb", "obb", "obb", 21_048_003, 21.0, 71.1),
        Model("yolov12l-obb", "obb", "obb", 27_299_619, 27.2, 92.6),
        Model("yolov12x-obb", "obb", "obb", 61_119_939, 61.0, 207.3),
        Model("yolov12n-e2e", "e2e", "detect", 2_447_032, 2.3, 5.2),
        Model("yolov12s-e2e", "e2e", "detect", 9_427_512, 8.9, 20.0),
        Model("yolov12m-e2e", "e2e", "detect", 21_648_440, 20.2, 67.4),
        Model("yolov12l-e2e", "e2e", "detect", 27_900_056, 26.4, 88.8),
        Model("yolov12x-e2e", "e2e", "detect", 62_413_784, 59.1, 198.9),
        Model("yolov12n-seg-e2e", "seg-e2e", "segment", 2_811_640, 2.5, 8.6),
        Model("yolov12s-seg-e2e", "seg-e2e", "segment", 10_214_584, 9.4, 32.1),
        Model("yolov12m-seg-e2e", "seg-e2e", "segment", 24_281_144, 21.9, 115.1),
        Model("yolov12l-seg-e2e", "seg-e2e", "segment", 31_116_856, 28.7, 137.6),
        Model("yolov12x-seg-e2e", "seg-e2e", "segment", 69_711_832, 64.5, 308.6),
        Model("yolov12n-p2", "p2", "detect", 2_715_856, 2.7, 11.2),
        Model("yolov12s-p2", "p2", "detect", 9_441_424, 9.4, 29.1),
        Model("yolov12m-p2", "p2", "detect", 20_593_424, 20.6, 86.5),
        Model("yolov12l-p2", "p2", "detect", 27_112_816, 27.1, 113.4),
        Model("yolov12x-p2", "p2", "detect", 59_909_360, 59.8, 245.3),
        Model("yolov12n-p6", "p6", "detect", 4_246_256, 4.2, 6.5),
        Model("yolov12s-p6", "p6", "detect", 15_412_752, 15.4, 21.6),
        Model("yolov12m-p6", "p6", "detect", 30_669_712, 30.6, 70.1),
        Model("yolov12l-p6", "p6", "detect", 40_212_768, 40.1, 92.7),
        Model("yolov12x-p6", "p6", "detect", 90_037_360, 89.9, 207.5),
    )
}
# fmt: on


def add_released_names(stock: Iterable[str]) -> frozenset[str]:
    """The names of models that Ultralytics takes for those of their weights, with the plugin's."""
    return frozenset((*stock, *MODELS))
