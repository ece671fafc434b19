"""What backbones give to decoders."""

import pytest
import timm
import torch

from protoseg_deploy.models.backbones import Backbone


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_all_maps_of_a_vit_pass_its_last_normalisation(name):
    torch.manual_seed(0)
    backbone = Backbone(name).eval()
    norm = backbone.net.model.norm
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    torch.nn.init.normal_(norm.bias)
    whole = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    whole.load_state_dict(backbone.net.model.state_dict())
    side = 4 * backbone.strides[0]
    image = torch.randn(2, 3, side, 2 * side)
    with torch.inference_mode():
        maps = [level.flatten(2).transpose(1, 2) for level in backbone(image)]
        classified = whole.forward_features(image)[:, whole.num_prefix_tokens :]
        torch.testing.assert_close(maps[-1], classified, atol=1e-5, rtol=1e-5)
        for level in maps:
            plain = (level - norm.bias) / norm.weight
            torch.testing.assert_close(plain.mean(2), torch.zeros(2, 32), atol=1e-4, rtol=0)
            torch.testing.assert_close(plain.var(2, correction=0), torch.ones(2, 32), atol=1e-2, rtol=0)
