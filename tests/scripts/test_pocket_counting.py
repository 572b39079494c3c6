"""The script `counting.py`: its errors are those of answers counted one by one, and original positions overcount."""

from divprune_hf.evaluation.questions import Question
from scripts.training.pocket_llava.counting import counting_questions, errors_of, main


def test_errors_are_answers_minus_truths(tmp_path):
    questions = [Question(tmp_path, "How many?", (truth,), "counting") for truth in ("3", "3", "0", "2")]
    assert errors_of(questions, ["3.", "5", "no", "1"]) == [0, 2, -1]


def test_original_positions_make_it_count_too_many_objects(capsys):
    assert main(["--budgets", "0.5", "--limit", "40"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    (compact, original) = (row for row in rows if row[1] == "max_min" and "all objects" in row[3])
    assert (compact[2], original[2]) == ("compact", "original")
    assert abs(float(compact[-1])) < 0.5 < float(original[-1])
    assert int(compact[3].split()[0]) == len(counting_questions(40)["all objects"]) > 5


def test_an_impossible_budget_is_refused_in_one_line(capsys):
    assert main(["--budgets", "half"]) == 2
    assert "budget 'half'" in capsys.readouterr().err
