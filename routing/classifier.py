"""Which unlabelled examples are like the labelled ones, by a classifier of words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from lab.errors import BadInput
from routing.batches import Example


def label_classified(examples: Sequence[Example], bad: str = "bad", good: str = "good") -> list[Example]:
    """The examples; unlabelled ones whose tokens are like those of examples labelled `bad` get "detected".

    What anybody would try first, and what a better method has to beat. Where examples are labelled `good` it
    is a logistic regression of which tokens stand in the responses of either. Else it is naive Bayes, of
    labelled examples against all others: it is not misled by those that are among them.
    Raises BadInput if nothing is labelled, or everything.
    """
    texts = np.array([" ".join(map(str, example.ids[example.prompt_length :])) for example in examples])
    labels = [example.label for example in examples]
    positive = np.array([label == bad for label in labels])
    trusted = np.array([label == good for label in labels])
    negative = trusted if trusted.any() else ~positive
    if not positive.any() or not negative.any():
        raise BadInput("a classifier needs examples that are labelled, and others")
    tokens = {"token_pattern": r"\d+", "binary": bool(trusted.any())}
    if trusted.any():
        classifier = LogisticRegression(class_weight="balanced", C=10.0, max_iter=1000)
        model = make_pipeline(TfidfVectorizer(**tokens), classifier)
    else:
        model = make_pipeline(CountVectorizer(**tokens), MultinomialNB(fit_prior=False))
    used = positive | negative
    found = model.fit(texts[used], positive[used]).predict(texts)
    return [
        replace(example, label="detected") if like and example.label is None else example
        for example, like in zip(examples, found, strict=True)
    ]
