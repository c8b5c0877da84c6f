"""What whole fine-tunings of networks of images have in common."""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, Size
from benchmarks.forgetting.experiments.whole_budget.report import Score, protocol, tables
from benchmarks.forgetting.tasks.cifar.few_examples import Sizes

# The paper's for its pretrained language model, and the far end of its Table 9; its vision transformer has 10.
RATIO = 10_000.0
SCORES = (Score("new (%)", "new"), Score("old (%)", "old"))
QUICK = Size(Sizes(examples=40, held_out=20, test=30, batch=8), (1e-3,), gradients=20, evaluations=1)


def section(
    title: str,
    outcome: Outcome,
    plan: Plan,
    like: str = "",
    paper: Mapping[str, str] = MappingProxyType({}),
    of_paper: str = "",
) -> list[str]:
    """The part of a report that is of one task.

    Args:
      title: of the task.
      outcome: what was measured.
      plan: what was asked for.
      like: whose ratio that is, as a phrase behind it.
      paper: the paper's figures, by method.
      of_paper: what these are, as a sentence.
    """
    sizes, epochs = plan.size.task, plan.size.gradients * plan.size.task.batch / plan.size.task.examples
    batches = f"batches of {sizes.batch} out of {sizes.examples:,} training images, {epochs:.1f} epochs"
    explained = f"{protocol(plan, batches, RATIO, like=like)} Accuracies are of {sizes.test:,} test images a task."
    return [
        f"## {title[0].upper()}{title[1:]}",
        f"{explained} {of_paper}".strip(),
        tables(outcome, plan, SCORES, paper),
    ]
