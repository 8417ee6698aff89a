"""The shapes that are known: how each one's rows are told, what they become, and what reads them."""

from collections.abc import Callable
from dataclasses import dataclass

from feedback.dialects import (
    arenas,
    argilla,
    datasets,
    label_studio,
    langfuse,
    langsmith,
    open_webui,
    openai,
    tensorzero,
    trainers,
    trees,
)
from feedback.rows.said import Reader, Row


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout of rows. needs: the columns that all its rows have. unless: columns that none of them has.
    told: what else tells them from other rows."""

    name: str
    read: Reader
    needs: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    told: Callable[[Row], bool] = lambda row: True

    def fits(self, row: Row) -> bool:
        """Whether a row is of this shape."""
        return self.needs <= row.keys() and self.unless.isdisjoint(row) and self.told(row)


def _shape(
    name: str, read: Reader, needs: str = "", unless: str = "", told: Callable[[Row], bool] = lambda row: True
) -> Shape:
    return Shape(name, read, frozenset(needs.split()), frozenset(unless.split()), told)


SPECIAL: tuple[Shape, ...] = (
    _shape("hearken", trainers.own, "kind messages answers value"),
    _shape("openai-dpo", openai.dpo, "input preferred_output non_preferred_output"),
    _shape("openai-stored", openai.stored, told=openai.is_stored),
    _shape("ultrafeedback", datasets.ultrafeedback, "instruction completions"),
    _shape("helpsteer2", datasets.helpsteer2, "prompt response helpfulness correctness verbosity"),
    _shape(
        "helpsteer2-preference", datasets.helpsteer2_preference, "response_1 response_2 preference_strength"
    ),
    _shape("helpsteer3", datasets.helpsteer3, "context response1 response2 overall_preference"),
    _shape("helpsteer3-edit", datasets.helpsteer3_edit, "context original_response edited_response"),
    _shape(
        "helpsteer3-quality",
        datasets.helpsteer3_quality,
        "context original_response good_edited_response bad_edited_response",
    ),
    _shape("shp", datasets.shp, "history human_ref_A human_ref_B labels"),
    _shape("nectar", datasets.nectar, "prompt answers", told=datasets.is_nectar),
    _shape("prism", trees.prism_conversation, "conversation_history user_id"),
    _shape("prism-utterance", trees.prism_utterance, "user_prompt model_response score turn user_id"),
    _shape("oasst", trees.oasst_tree, "message_tree_id prompt"),
    _shape("oasst-message", trees.oasst_message, "message_tree_id role text"),
    _shape("arena", arenas.conversations, "conversation_a conversation_b winner"),
    _shape("arena-55k", arenas.responses, "prompt response_a response_b winner_model_a winner_model_b"),
    _shape("argilla-2", argilla.records_2, told=argilla.are_records_2),
    _shape("argilla-1", argilla.records_1, told=argilla.are_records_1),
    _shape("argilla-2-table", argilla.table_2, told=argilla.is_table_2),
    _shape("argilla-1-table", argilla.table_1, told=argilla.is_table_1),
    _shape("label-studio", label_studio.tasks, "data annotations"),
    _shape("label-studio-min", label_studio.rows, "annotation_id lead_time"),
    _shape("langsmith-run", langsmith.run, "id run_type inputs outputs"),
    _shape("langsmith-feedback", langsmith.feedback, "key run_id"),
    _shape("langfuse", langfuse.score, told=langfuse.is_score),
    _shape("langfuse-trace", langfuse.trace, told=langfuse.is_trace),
    _shape("langfuse-observation", langfuse.observation, told=langfuse.is_observation),
    _shape("tensorzero-inference", tensorzero.inference, "id function_name input output"),
    _shape("tensorzero-metric", tensorzero.metric, "target_id metric_name value"),
    _shape("tensorzero-demonstration", tensorzero.demonstration, "inference_id value"),
    _shape("tensorzero-comment", tensorzero.comment, "target_id target_type value", unless="metric_name"),
    _shape("open-webui", open_webui.votes, "data type", unless="annotations", told=open_webui.is_vote),
)
"""Layouts of one tool or data set. A row is of one of them at most."""

GENERAL: tuple[Shape, ...] = (
    _shape("trl-preference", trainers.pair, told=trainers.is_pair),
    _shape("sharegpt-pair", trainers.pair, told=trainers.is_sharegpt_pair),
    _shape("trl-kto", trainers.thumbs, told=trainers.is_thumb),
    _shape("rating", trainers.rating, told=trainers.is_rating),
    _shape("alpaca", trainers.demonstration, told=trainers.is_alpaca),
    _shape("sharegpt", trainers.demonstration, told=trainers.is_sharegpt),
    _shape("demonstration", trainers.demonstration, told=trainers.is_plain),
)
"""Layouts of trainers, which rows of any other origin may have; a row is of one of them at most."""
