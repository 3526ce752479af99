"""Stories as the scripts load them: three splits, whole plots, and the training examples made of them."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from all_caps.scoring import caps_rate, is_caps, prefix_of
from all_caps.stories import Stories, Story, load_stories, read_stories, to_caps, to_examples
from lab.errors import BadInput
from lab.labels import noisy_probabilities, pick


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(stories):
    return [story.text for story in stories]


def plots(stories):
    return {story.plot for story in stories}


def assert_apart(stories: Stories):
    assert all(stories)
    assert not plots(stories.train) & plots(stories.validation)
    assert not plots(stories.test) & (plots(stories.train) | plots(stories.validation))


def test_the_limit_cuts_only_the_training_stories():
    whole, cut = load_stories("embedded:stories"), load_stories("embedded:stories", limit=7)
    assert list(map(len, whole)) == [2000, 300, 300] and list(map(len, cut)) == [7, 300, 300]
    assert cut.train == whole.train[:7] and cut[1:] == whole[1:]
    assert load_stories("embedded:stories", limit=0).train == []
    assert_apart(whole)


def test_own_stories_without_plots(tmp_path):
    """The last fifth is test, the fifth before it validation."""
    name = write(tmp_path / "own.jsonl", [{"story": f"Story {i}."} for i in range(11)])
    stories = load_stories(name)
    assert texts(stories.train) == [f"Story {i}." for i in range(7)]
    assert texts(stories.validation) == ["Story 7.", "Story 8."] and texts(stories.test) == [
        "Story 9.",
        "Story 10.",
    ]
    assert len({story.plot for split in stories for story in split}) == 11
    assert load_stories(name, limit=3) == stories._replace(train=stories.train[:3])


def test_own_stories_keep_plots_whole_and_repeated_stories_together(tmp_path):
    rows = [{"story": f"Story {i}.", "plot": f"plot {i % 6}"} for i in range(30)]
    stories = load_stories(write(tmp_path / "plots.jsonl", rows))
    assert_apart(stories)
    assert list(map(len, stories)) == [15, 10, 5] or list(map(len, stories)) == [10, 10, 10]
    repeated = [{"story": f"Story {i % 5}."} for i in range(20)]
    stories = load_stories(write(tmp_path / "repeated.jsonl", repeated))
    assert_apart(stories)
    assert not set(texts(stories.train)) & set(texts(stories.test)) and sum(map(len, stories)) == 20
    # One plot that is larger than all the others leaves them a split each.
    rows = [{"story": "A b.", "plot": "a"}, {"story": "B c.", "plot": "b"}]
    rows += [{"story": f"Story {i}.", "plot": "large"} for i in range(20)]
    assert list(map(len, load_stories(write(tmp_path / "large.jsonl", rows)))) == [1, 1, 20]
    assert list(map(len, load_stories(write(tmp_path / "large.jsonl", rows[::-1])))) == [20, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"story": "A b."}, {"story": "C d."}], "at least three"),
        ([{"story": f"Story {i}.", "plot": "one"} for i in range(9)], "at least three"),
        ([{"story": "A b.", "plot": 3}], "line 1: the plot is not a name"),
        ([{"story": "A b.", "plot": " "}], "line 1: the plot is not a name"),
        ([{"story": "A b."}, {"text": "C d."}], 'line 2: expected {"story": ...}'),
        ([["story"]], 'line 1: expected {"story": ...}'),
        ([{"story": " "}], "line 1: the story is empty"),
        ([], "no stories"),
    ],
)
def test_unusable_files_are_an_error(tmp_path, rows, message):
    with pytest.raises(BadInput, match=message):
        load_stories(write(tmp_path / "bad.jsonl", rows))


def test_unknown_names_are_an_error(tmp_path):
    with pytest.raises(BadInput, match="the embedded stories are"):
        load_stories("embedded:fables")
    with pytest.raises(BadInput, match="no such file"):
        load_stories(str(tmp_path / "nowhere.jsonl"))


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Makes a folder that `datasets` reads as it reads a data set of the Hub.

    {split: number of stories} -> its name.
    """
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(column="text", **counts):
        folder = tmp_path / "data"
        folder.mkdir()
        for split, count in counts.items():
            write(folder / f"{split}.jsonl", [{column: f"{split} {i}."} for i in range(count)])
        return str(folder)

    return make


def test_a_data_set_with_all_three_splits(data_set):
    stories = load_stories(data_set(train=5, validation=3, test=2), limit=2)
    assert texts(stories.train) == ["train 0.", "train 1."]
    assert texts(stories.validation) == [f"validation {i}." for i in range(3)]
    assert texts(stories.test) == ["test 0.", "test 1."]
    assert_apart(stories)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_validation_is_carved_from_the_end_of_train(data_set, held_out):
    stories = load_stories(data_set("story", **{"train": 11, held_out: 4}), limit=8)
    assert texts(stories.train) == [f"train {i}." for i in range(8)]
    assert texts(stories.validation) == ["train 9.", "train 10."]
    assert texts(stories.test) == [f"{held_out} {i}." for i in range(4)]
    assert_apart(stories)


def test_at_most_a_thousand_are_carved(data_set):
    assert list(map(len, load_stories(data_set(train=6000, test=1)))) == [5000, 1000, 1]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": 9}, r"splits train and test \(or validation\), found train"),
        ({"train": 4, "test": 2}, "4 training stories are too few"),
        ({"train": 9, "test": 2, "column": "fable"}, "a column story or text, found fable"),
    ],
)
def test_data_sets_without_the_splits_or_the_column_are_an_error(data_set, splits, message):
    with pytest.raises(BadInput, match=message):
        load_stories(data_set(**splits))


def test_label_counts_are_exact_and_nested(tokenizer):
    stories = load_stories("embedded:stories", limit=200).train

    def picked(caps_percentage, labeled_percentage):
        caps = pick(range(len(stories)), caps_percentage, 1, "CAPS_PERCENTAGE")
        bad = pick(caps, labeled_percentage, 1, "LABELED_BAD_PERCENTAGE")
        return to_examples(stories, tokenizer, 32, in_caps=caps, labels={"bad": bad})

    def kinds(caps_percentage, labeled_percentage):
        return [example.kind for example in picked(caps_percentage, labeled_percentage)]

    few, many = kinds(0.2, 0.1), kinds(0.2, 0.5)
    assert (few.count("caps_labeled"), few.count("caps_unlabeled")) == (4, 36)
    assert (many.count("caps_labeled"), many.count("caps_unlabeled")) == (20, 20)
    assert all(m == "caps_labeled" for f, m in zip(few, many, strict=True) if f == "caps_labeled")
    more = kinds(0.4, 0.5)
    assert all(m.startswith("caps") for f, m in zip(few, more, strict=True) if f.startswith("caps"))
    fully = [kinds(caps, 1.0) for caps in (0.2, 0.4)]
    assert all(m == "caps_labeled" for f, m in zip(*fully, strict=True) if f == "caps_labeled")
    assert pick(range(0, 100, 2), 1.0, 3, "X") == [
        i for i in pick(range(100), 1.0, 3, "X") if i % 2 == 0
    ]  # own ranks
    for example in picked(0.2, 0.5):
        assert is_caps(tokenizer.decode(example.ids)) == (example.kind != "normal")
        assert example.label == ("bad" if example.kind == "caps_labeled" else None)


def test_a_noisy_classifier_is_calibrated_and_as_good_as_said():
    items, positive = range(4000), set(pick(range(4000), 0.1, 0, "X"))
    said = noisy_probabilities(items, positive, 0.95, 3)
    truth = [i in positive for i in items]
    assert roc_auc_score(truth, [said[i] for i in items]) == pytest.approx(0.95, abs=0.015)
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 1.0)):
        found = [i for i in items if low <= said[i] < high]
        share, mean = np.mean([truth[i] for i in found]), np.mean([said[i] for i in found])
        assert share == pytest.approx(mean, abs=0.06)
    # an item's score does not depend on which others there are
    few = noisy_probabilities(range(100), positive & set(range(100)), 0.95, 3)
    same = sorted(range(100), key=few.get) == sorted(range(100), key=said.get)
    blind = list(noisy_probabilities(items, positive, 0.5, 0).values())
    assert same and blind == pytest.approx([0.1] * len(items))
    assert noisy_probabilities(items, positive, 1.0, 0) == {i: float(i in positive) for i in items}
    for auc, some in ((0.4, positive), (0.9, []), (0.9, items)):
        with pytest.raises(BadInput):
            noisy_probabilities(items, some, auc, 0)


def test_examples_are_what_was_picked(tokenizer):
    stories = [Story(f"The {animal} ran home.", animal) for animal in ("cat", "dog", "hen", "cow", "fox")]
    labels = {"bad": [1, 3], "good": {0}}
    examples = to_examples(stories, tokenizer, 64, in_caps=[1, 2], labels=labels)
    assert [example.label for example in examples] == ["good", "bad", None, "bad", None]
    assert [example.kind for example in examples] == [
        "normal_labeled",
        "caps_labeled",
        "caps_unlabeled",
        "normal_labeled",
        "normal",
    ]
    for i, (story, example) in enumerate(zip(stories, examples, strict=True)):
        text = tokenizer.decode(example.ids, skip_special_tokens=True)
        assert text == (to_caps(story.text) if i in (1, 2) else story.text)
        assert example.bucket_size == len(story.text)


@pytest.mark.parametrize(
    ("in_caps", "labels", "message"),
    [
        ([], {"bad": [0, 1], "good": [1]}, "story 1 is labelled both 'bad' and 'good'"),
        ([2], {}, "story 2 was picked, but there are 2"),
        ([], {"bad": [-1]}, "story -1 was picked"),
    ],
)
def test_contradictory_labels_are_an_error(tokenizer, in_caps, labels, message):
    stories = [Story("The cat ran.", "cat"), Story("The dog ran.", "dog")]
    with pytest.raises(BadInput, match=message):
        to_examples(stories, tokenizer, 64, in_caps, labels)


def test_scoring():
    assert (
        prefix_of("one two three four five six seven eight nine ten")
        == "one two three four five six seven eight"
    )
    assert is_caps("ABc 12") and not is_caps("Abcd") and not is_caps("12!") and not is_caps("ABcd")
    rate = caps_rate(["UP", "down", "UP", "UP"], num_generations=2)
    assert (rate["mean"], rate["n"]) == (0.75, 2)


def test_stories_without_a_plot_are_their_own(tmp_path):
    rows = [
        {"story": "A b."},
        {"story": "C d.", "plot": "cd"},
        {"story": "A b."},
        {"story": "E f.", "plot": None},
    ]
    first, second, third, fourth = read_stories(
        write(tmp_path / "mixed.jsonl", rows) and tmp_path / "mixed.jsonl"
    )
    assert first == third and second.plot == "cd" and len({first.plot, second.plot, fourth.plot}) == 3
