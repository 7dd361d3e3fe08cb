"""Classification: what a clip is of."""

from avtool.tasks import Task

TASK = Task(
    name="classify",
    section="avtool.tasks.classify.recipe:Classify",
    training="avtool.tasks.classify.train:Classification",
    kinds={
        "classifier": "avtool.model.heads:AudioVisualClassifier",
        "linear_probe": "avtool.model.heads:LinearProbe",
    },
    head="avtool.config.types:Classes",
    evaluation="avtool.tasks.classify.protocols:EVALUATION",
    protocols=("top1", "top5", "mAP", "AUC", "vggsounder", "knn"),
    command="avtool.tasks.classify.command:classify",
    limits="It knows its own classes alone, and names one of them for a clip of anything else, too.",
)
