"""The exercises of the notebook on colour PCA accept right answers and no others."""

import pytest

from tests.notebooks.exercises import run

RIGHT = {
    1: [
        """
imagenet = ColorPCA.imagenet()
ten = torch.full((3,), 10 / 255, dtype=torch.double)
answer = torch.linalg.solve(imagenet.eigenvectors, ten) / imagenet.eigenvalues
""",
        "answer = [-0.3123, 0.0413, 0.0624]",
    ],
    2: [
        """
def answer(count_1, mean_1, covariance_1, count_2, mean_2, covariance_2):
    count = count_1 + count_2
    between = count_1 * count_2 / count**2 * torch.outer(mean_1 - mean_2, mean_1 - mean_2)
    return (count_1 * covariance_1 + count_2 * covariance_2) / count + between
"""
    ],
    3: [
        "answer = v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1))",
        "answer = v2.Compose([v2.RandomRotation(10), v2.RandomAffine(0, (0.1, 0.1), (0.9, 1.1))])",
        "from cnn_ext.transforms import digits_train\nanswer = digits_train(10, 0.1, (0.9, 1.1))",
    ],
}
WRONG = {
    1: [
        "answer = torch.full((3,), 10 / 255)",
        "answer = [0.3123, -0.0413, -0.0624]",  # darker
        "answer = 'brighter'",
    ],
    2: [
        """
def answer(count_1, mean_1, covariance_1, count_2, mean_2, covariance_2):
    return (count_1 * covariance_1 + count_2 * covariance_2) / (count_1 + count_2)
""",
        """
def answer(count_1, mean_1, covariance_1, count_2, mean_2, covariance_2):
    return (covariance_1 + covariance_2) / 2
""",
    ],
    3: [
        "answer = v2.Compose([v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1)), v2.RandomHorizontalFlip()])",
        "answer = v2.RandomAffine(30, translate=(0.1, 0.1), scale=(0.9, 1.1))",
        "answer = v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1))",  # safe, but more than 10°
        "answer = v2.RandomAffine(10, translate=(0.1, 0.1))",
        "answer = v2.RandomAffine(10, scale=(0.9, 1.1))",
        "answer = v2.Identity()",
    ],
}


def cases(answers):
    return [(number, answer) for number in answers for answer in answers[number]]


@pytest.mark.parametrize("exercise", [1, 2, 3])
def test_no_answer_is_called_that(exercise):
    assert run("05_color_pca", exercise) == "not answered yet"


@pytest.mark.parametrize(("exercise", "answer"), cases(RIGHT))
def test_a_right_answer_is_accepted(exercise, answer):
    assert run("05_color_pca", exercise, answer) == "right"


@pytest.mark.parametrize(("exercise", "answer"), cases(WRONG))
def test_a_wrong_answer_is_refused(exercise, answer):
    with pytest.raises(AssertionError, match="not right"):
        run("05_color_pca", exercise, answer)
