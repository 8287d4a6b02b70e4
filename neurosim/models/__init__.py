"""The zoo: plain torch networks that know nothing of chips, made by name.

>>> import torch
>>> from neurosim import models
>>> net = models.create("cnn", num_classes=10, in_chans=1, image_size=28, seed=0)
>>> net(torch.zeros(2, 1, 28, 28)).shape
torch.Size([2, 10])
>>> [name for name in models.names() if name.startswith("resnet")]
['resnet32', 'resnet8']

Every network begins with :class:`neurosim.models.normalise.Normalise`, so it reads inputs in [0, 1],
(batch, channels, height, width), and returns logits (batch, classes), or a class for every pixel.  Axis 0
is an ordinary batch everywhere, and every matrix product is a layer that can go on crossbars.

A network that is not of the zoo is an :class:`OwnModel`; :func:`own_model` imports one by its name.
"""

from neurosim.models.catalogue import ModelInfo, create, info, names
from neurosim.models.own import OwnModel, is_own, own_model

__all__ = ["ModelInfo", "OwnModel", "create", "info", "is_own", "names", "own_model"]
