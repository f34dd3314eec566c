"""Rules between keys of several tables: plain functions from a recipe to a conflict or None.

They run after all tables are read, so that one mistake does not hide another.
"""

from __future__ import annotations

from collections.abc import Iterator

from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.conflict import Rule
from lora_ns.recipe.rules.dataset import (
    a_stream_has_steps,
    a_stream_is_read_as_it_comes,
    all_sources_are_weighted,
    bad_rows_are_in_files,
    columns_are_read,
    completion_template_has_a_column,
    each_source_is_named,
    hub_keys_need_a_hub_name,
    layouts_are_of_files,
    one_evaluation_source,
    one_source,
    pair_needs_its_first_text,
    shuffle_buffer_is_of_a_stream,
    slices_are_parts,
    stratified_rows_are_set_aside,
    system_turn_needs_chat_form,
    templates_are_well_formed,
    templates_come_together,
    templates_fit_the_format,
)
from lora_ns.recipe.rules.distributed import (
    machines_can_meet,
    processes_train_together,
    rows_can_be_divided,
    weights_can_be_divided,
    zero_keys_fit_together,
)
from lora_ns.recipe.rules.evaluation import (
    answer_pattern_is_a_pattern,
    asking_while_training_has_effect,
    exact_match_has_rows,
    exact_match_keys_need_it,
    sampling_keys_need_it,
    suites_are_answered,
    suites_can_work,
    suites_have_own_names,
    suites_have_rows,
)
from lora_ns.recipe.rules.method import OWN_RULES, added_tokens_are_trained, method_works_on_the_base
from lora_ns.recipe.rules.model import an_adapter_goes_on, base_adapters_can_be_merged, remote_code_is_pinned
from lora_ns.recipe.rules.objective import (
    a_step_has_whole_groups,
    adapter_can_be_copied,
    adapter_is_in_the_layers,
    compared_rows_are_mixed,
    dropout_is_used,
    format_fits_the_task,
    method_fits_the_task,
    objective_divides_weights,
    packing_keeps_documents_apart,
    reference_is_the_start,
    start_has_answers,
    tables_fit_the_task,
    vllm_writes_as_the_model_does,
)
from lora_ns.recipe.rules.training import (
    best_metric_is_measured,
    best_weights_can_be_loaded,
    checkpointing_works,
    checkpoints_are_whole,
    early_stopping_threshold_needs_patience,
    evaluations_can_be_chosen_from,
    global_batch_divides,
    nothing_is_pushed,
    one_batch_size,
    one_length_of_training,
    one_warm_up,
    optimizer_is_known,
    optimizer_takes_its_settings,
    peft_extra_is_known,
    training_extra_has_an_effect,
    training_extra_is_known,
    warm_up_ends,
)
from lora_ns.table import Conflict

RULES: tuple[Rule, ...] = (
    one_source,
    each_source_is_named,
    all_sources_are_weighted,
    slices_are_parts,
    layouts_are_of_files,
    stratified_rows_are_set_aside,
    a_stream_has_steps,
    a_stream_is_read_as_it_comes,
    shuffle_buffer_is_of_a_stream,
    one_evaluation_source,
    hub_keys_need_a_hub_name,
    bad_rows_are_in_files,
    one_batch_size,
    global_batch_divides,
    one_length_of_training,
    one_warm_up,
    warm_up_ends,
    optimizer_is_known,
    optimizer_takes_its_settings,
    templates_come_together,
    templates_are_well_formed,
    completion_template_has_a_column,
    system_turn_needs_chat_form,
    templates_fit_the_format,
    columns_are_read,
    sampling_keys_need_it,
    tables_fit_the_task,
    format_fits_the_task,
    pair_needs_its_first_text,
    method_fits_the_task,
    packing_keeps_documents_apart,
    reference_is_the_start,
    adapter_can_be_copied,
    adapter_is_in_the_layers,
    start_has_answers,
    dropout_is_used,
    objective_divides_weights,
    a_step_has_whole_groups,
    compared_rows_are_mixed,
    vllm_writes_as_the_model_does,
    checkpointing_works,
    remote_code_is_pinned,
    an_adapter_goes_on,
    base_adapters_can_be_merged,
    *OWN_RULES.values(),
    method_works_on_the_base,
    added_tokens_are_trained,
    exact_match_has_rows,
    exact_match_keys_need_it,
    asking_while_training_has_effect,
    answer_pattern_is_a_pattern,
    suites_have_own_names,
    suites_are_answered,
    suites_have_rows,
    processes_train_together,
    weights_can_be_divided,
    zero_keys_fit_together,
    rows_can_be_divided,
    machines_can_meet,
    nothing_is_pushed,
    checkpoints_are_whole,
    evaluations_can_be_chosen_from,
    best_metric_is_measured,
    best_weights_can_be_loaded,
    early_stopping_threshold_needs_patience,
    training_extra_is_known,
    training_extra_has_an_effect,
    peft_extra_is_known,
)


def findings(recipe: Recipe) -> Iterator[Conflict]:
    """Yield the conflict of every broken rule."""
    for rule in RULES:
        finding = rule(recipe)
        if finding:
            yield finding
    yield from recipe.objective.conflicts()
    yield from suites_can_work(recipe)
