from yolov12_plugin.benchmark.hook import TensorRTBenchmark as TensorRTBenchmark
from yolov12_plugin.checkpoints.convert import convert as convert
from yolov12_plugin.checkpoints.hub import pull as pull
from yolov12_plugin.checkpoints.hub import push as push
from yolov12_plugin.deploy.verify import verify_export as verify_export
from yolov12_plugin.nn.attention import attention_backend as attention_backend
from yolov12_plugin.nn.checkpointing import checkpointing as checkpointing
from yolov12_plugin.nn.modules import A2C2f as A2C2f
from yolov12_plugin.nn.modules import AAttn as AAttn
from yolov12_plugin.nn.modules import ABlock as ABlock
from yolov12_plugin.registry import is_registered as is_registered
from yolov12_plugin.registry import register as register
from yolov12_plugin.registry import unregister as unregister
from yolov12_plugin.training.guard import TrainingGuard as TrainingGuard
from yolov12_plugin.training.presets import preset as preset

__all__ = [
    "A2C2f",
    "AAttn",
    "ABlock",
    "TensorRTBenchmark",
    "TrainingGuard",
    "attention_backend",
    "checkpointing",
    "convert",
    "is_registered",
    "preset",
    "pull",
    "push",
    "register",
    "unregister",
    "verify_export",
]
__version__: str
