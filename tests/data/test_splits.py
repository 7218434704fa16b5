import pytest
import torch

from gar_env.data import Dataset, load_dataset, make_splits, parse_corruptions
from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.seeding import named_generator


def generator(seed=0):
    return named_generator(seed, "labels")


@pytest.fixture
def digits():
    return load_dataset("digits")


def test_equal_splits_share_out_every_example_once(digits):
    splits = make_splits(digits, generator())
    assert splits.num_splits == 10
    assert sorted(splits.members.tolist()) == list(range(1437))
    assert splits.sizes.max() - splits.sizes.min() <= 1


def test_splits_depend_on_their_generator_alone(digits):
    first, second, other = (make_splits(digits, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.members, second.members)
    assert torch.equal(first.targets, second.targets)
    assert not torch.equal(first.members, other.members)


def test_split_0_has_random_labels_by_default_and_the_data_set_keeps_its_own(digits):
    before = digits.y_train.clone()
    splits = make_splits(digits, generator())
    assert splits.corrupted == (0,)
    assert splits.names[0] == "0 (label_noise)"
    wrong = splits.targets != digits.y_train
    in_split_0 = torch.zeros(1437, dtype=torch.bool)
    in_split_0[splits.members[: splits.sizes[0]]] = True
    assert not wrong[~in_split_0].any()
    assert 0.8 < wrong[in_split_0].float().mean() < 0.98, "a tenth of random labels is right by chance"
    assert torch.equal(splits.inputs.all(), digits.x_train)
    assert torch.equal(digits.y_train, before)


def test_pixel_noise_and_easy_spoil_images_and_keep_labels(digits):
    splits = make_splits(digits, generator(), corrupt="1:pixel_noise, 2:easy")
    assert torch.equal(splits.targets, digits.y_train)
    noise, easy = (splits.inputs[splits.members[splits.starts[i] : splits.starts[i] + splits.sizes[i]]] for i in (1, 2))
    assert 120 < noise.float().mean() < 135
    assert len(easy.unique(dim=0)) == 10, "one image per class, repeated"


def test_a_share_corrupts_that_share(digits):
    splits = make_splits(digits, generator(), corrupt="3:pixel_noise(0.25)")
    changed = (splits.inputs.all() != digits.x_train).flatten(1).any(1).sum()
    assert changed == round(0.25 * int(splits.sizes[3]))
    assert splits.names[3] == "3 (pixel_noise 0.25)"


def test_one_split_per_class(digits):
    splits = make_splits(digits, generator(), kind="class", corrupt="")
    assert splits.names == tuple(str(i) for i in range(10))
    drawn = splits.draw(torch.arange(10), named_generator(0, "data"))
    assert splits.targets[drawn].tolist() == list(range(10))


def grouped(digits, groups=("lab", "web")):
    owner = torch.arange(len(digits.x_train)) % 2
    return Dataset("mine", digits.x_train, digits.y_train, digits.x_test, digits.y_test, digits.classes, owner, groups)


def test_ones_own_sources_are_left_clean_by_default(digits):
    splits = make_splits(grouped(digits), generator(), kind="group")
    assert splits.names == ("lab", "web")
    assert splits.corrupted == ()
    assert torch.equal(splits.targets, digits.y_train)


def test_the_heldout_part_is_clean_and_in_no_split(digits):
    splits = make_splits(digits, generator(), heldout_share=0.2)
    assert len(splits.heldout) == 287
    assert not set(splits.heldout.tolist()) & set(splits.members.tolist())
    assert torch.equal(splits.targets[splits.heldout], digits.y_train[splits.heldout])
    drawn = splits.draw_heldout(50, named_generator(0, "data"))
    assert set(drawn.tolist()) <= set(splits.heldout.tolist())


def test_draws_come_from_the_split_that_was_asked_for_uniformly(digits):
    splits = make_splits(digits, generator())
    wanted = torch.arange(10).repeat(3000)
    drawn = splits.draw(wanted, named_generator(0, "data"))
    owner = torch.empty(1437, dtype=torch.long)
    owner[splits.members] = torch.arange(10).repeat_interleave(splits.sizes)
    assert torch.equal(owner[drawn], wanted)
    counts = torch.bincount(drawn, minlength=1437)
    assert counts.min() > 0
    assert counts.max() < 60, "expected about 21 each"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "equl"}, r"splits='equl' is unknown. Did you mean 'equal'\?"),
        ({"kind": "group"}, "digits has none. Add a group_train array"),
        ({"num_splits": 1}, "num_splits=1: a controller needs at least 2"),
        ({"num_splits": 2000}, r"563 of 2000 splits would be empty: "),
        ({"corrupt": "10:label_noise"}, r"corrupt names split 10, but there are 10 splits: 0..9"),
        ({"heldout_share": 1.0}, "heldout_share=1.0 must be at least 0 and below 1"),
        ({"heldout_share": 1e-6}, "heldout_share=1e-06 of 1437 examples is none"),
    ],
)
def test_splits_that_cannot_be_say_why(digits, options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_splits(digits, generator(), **options)


def test_one_source_is_no_choice(digits):
    alone = Dataset("mine", digits.x_train, digits.y_train, digits.x_test, digits.y_test, digits.classes,
                    torch.zeros(1437, dtype=torch.long), ("lab",))  # fmt: skip
    with pytest.raises(ConfigurationError, match="splits='group' gives 1 split; a controller needs at least 2"):
        make_splits(alone, generator(), kind="group")


def test_a_source_without_examples_is_named(digits):
    with pytest.raises(ConfigurationError, match="1 of 3 splits would be empty: phone"):
        make_splits(grouped(digits, ("lab", "web", "phone")), generator(), kind="group")


@pytest.mark.parametrize(
    "text",
    [
        "label_noise",
        "0=label_noise",
        "0:",
        "0:easy(2)",
        "0:easy(0)",
        "-1:easy",
        "0:easy(0.5.1)",
        "0:easy(.)",
        "0:easy;1:easy",
    ],
)
def test_a_corruption_that_is_not_of_the_form_is_refused(text):
    with pytest.raises(ConfigurationError, match="Write 'split:name' or 'split:name"):
        parse_corruptions(text)


def test_corruptions_by_unknown_name_or_twice_are_refused():
    with pytest.raises(UnknownNameError, match=r"No corruption is called 'labelnoise'. Did you mean 'label_noise'\?"):
        parse_corruptions("0:labelnoise")
    with pytest.raises(ConfigurationError, match="corrupt names split 0 twice: easy and pixel_noise"):
        parse_corruptions("0:easy,0:pixel_noise")
