from __future__ import annotations

import torch

from tasks.models.picture_net import PictureNet

SIDE = 12


def network(mirrored: bool = False) -> PictureNet:
    torch.manual_seed(3)
    return PictureNet(4, side=SIDE, widths=(4, 6, 8), mirrored=mirrored).eval()


def test_a_picture_gets_a_number_per_class() -> None:
    assert network()(torch.rand(5, SIDE, SIDE)).shape == (5, 4)


def test_the_recipe_of_the_benchmark_stays_below_half_a_million_parameters() -> None:
    large = PictureNet(10, side=28, widths=(32, 64, 128), mirrored=True)
    assert sum(tensor.numel() for tensor in large.parameters()) == 469_866


def test_deeper_networks_have_the_blocks_they_were_asked_for() -> None:
    deep = PictureNet(10, side=28, widths=(32, 64, 128), blocks=(3, 3, 1), mirrored=True)
    assert sum(tensor.numel() for tensor in deep.parameters()) == 673_514
    assert deep.eval()(torch.rand(2, 28, 28)).shape == (2, 10)


def test_a_mirrored_network_answers_a_picture_and_its_mirror_image_alike() -> None:
    images = torch.rand(5, SIDE, SIDE)
    both, alone = network(mirrored=True), network()
    torch.testing.assert_close(both(images), both(images.flip(2)))
    assert not torch.allclose(alone(images), alone(images.flip(2)), atol=1e-4)


def test_a_place_without_weight_is_not_looked_at() -> None:
    net = network()
    with torch.no_grad():
        net.places.zero_()
    answers = net(torch.rand(2, SIDE, SIDE))
    torch.testing.assert_close(answers, net.head.bias.expand(2, 4))
