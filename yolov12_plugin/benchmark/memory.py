"""What a forward pass keeps for the backward pass."""

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of the distinct storages, other than the model's own, that a forward pass keeps for gradients."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is given twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        result = model(images)
    del result
    return sum(storage.nbytes() for storage in kept.values())
