"""Functions of a task about nano's held-out pictures; lmms-eval imports this file from where the task's YAML lies."""


def picture(row):
    return [row["image"].convert("RGB")]


def score(row, answers):
    return {"right": float(answers[0] == row["answer"])}
