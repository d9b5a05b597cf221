"""Do the tests bite? Hand-made faults in `textless`, each applied alone to a copy, and the tests that must notice it.

    python tests/mutations.py [-k WORD] [-j N] [--list]

Prints which mutations the named tests kill and which survive them, and the share killed; exit code 1 below 95 %. `-k`
takes those whose file, text or tests hold WORD; `-j` runs so many at a time. The checkout itself is never changed. All
of them take about half an hour on one core.

A mutation is (file in textless/, old text, which occurs there exactly once, new text, tests as `file::function` without
`test_`). `tests/test_mutations.py` says when code has moved from under one: correct the old text, or write another
mutation in its place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.95  # share killed
SECONDS = 600  # of the tests of one mutation; one that takes longer has made them hang, which is noticed too


class Mutation(NamedTuple):
    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"

    def ids(self) -> list[str]:
        return [
            f"tests/test_{file}.py::test_{function}" for file, function in (t.split("::") for t in self.tests.split())
        ]


# fmt: off
_TABLE = [
    # --- pre-training: loss, masks, crops
    ("units/encoders/pretrain.py", "loss_masked + self.config.unmasked_weight * loss_unmasked",
     "loss_masked + loss_unmasked",
     "pretrain::losses_are_those_of_the_rows_by_hand"),
    ("units/encoders/pretrain.py", "padding=padding if padded else None, skip", "padding=None, skip",
     "pretrain::losses_are_those_of_the_rows_by_hand"),
    ("units/encoders/pretrain.py", "(nats * masked).sum() / max(n_masked, 1)",
     "(nats * masked).sum() / max(n_unmasked, 1)",
     "pretrain::losses_are_those_of_the_rows_by_hand"),
    ("units/encoders/pretrain.py", "(~whole.mask & (whole.targets >= 0)).sum()", "(~whole.mask).sum()",
     "pretrain::losses_are_those_of_the_rows_by_hand"),
    ("units/encoders/pretrain.py", "int(prob * length / span + generator.random())", "round(prob * length / span)",
     "pretrain::the_number_of_spans_is_rounded_at_random"),
    ("units/encoders/pretrain.py", "int(prob * length / span + generator.random())", "int(prob * length / span)",
     "pretrain::the_number_of_spans_is_rounded_at_random"),
    ("units/encoders/pretrain.py", "generator.choice(length - width, max(1, count)",
     "generator.choice(length - width - 1, max(1, count)",
     "pretrain::the_number_of_spans_is_rounded_at_random"),
    ("units/encoders/pretrain.py", "np.arange(width)).ravel()", "np.arange(width - 1)).ravel()", "pretrain::span_mask"),
    ("units/encoders/pretrain.py", "self.frames[i] - length + 1)", "self.frames[i] - length)",
     "pretrain::crops_of_a_batch_are_of_one_length_and_every_second_is_as_likely"),
    ("units/encoders/pretrain.py", "np.cumsum(self.frames[order]) / self.frames.sum()",
     "np.arange(1, len(order) + 1) / len(order)",
     "pretrain::crops_of_a_batch_are_of_one_length_and_every_second_is_as_likely"),
    ("units/encoders/pretrain.py", "int(self.starts[i]) + 2 * start", "int(self.starts[i]) + 2 * start + 1",
     "pretrain::a_crop_is_a_part_of_the_file"),
    ("units/encoders/start.py", "self.label_embs.float(), dim=-1).T / 0.1",
     "self.label_embs.float(), dim=-1).T / 0.2",
     "pretrain::losses_are_those_of_fairseq"),
    ("units/encoders/pretrain.py", "+ EPSILON[self.config.normalisation]", "+ 1e-2",
     "pretrain::a_quiet_file_is_normalised_as_the_model_does"),
    ("units/encoders/pretrain.py", "betas=(0.9, 0.98)", "betas=(0.9, 0.999)",
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/pretrain.py", "eps=1e-6", "eps=1e-8", "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/pretrain.py", "nn.ModuleList([model, head]), 0.01)", "nn.ModuleList([model, head]), 0.1)",
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/pretrain.py", "clip=5.0", "clip=100.0", "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/pretrain.py", "warmup=max(1, config.steps // 12)", "warmup=1",
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/pretrain.py", "floor=config.lr * 0.05", "floor=0",
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("units/encoders/start.py", "module.p = config.dropout", "module.p = 0.0",
     "pretrain::dropout_is_that_of_the_call"),
    ("units/encoders/pretrain.py", "< config.layer_drop", "< 0", "pretrain::layer_drop"),
    # --- pre-training that goes on from a model
    ("units/encoders/pretrain.py", "start + frames]) + self.head.first", "start + frames])",
     "start::losses_with_a_kept_head_are_those_of_fairseq"),
    ("units/encoders/pretrain.py", "layer_decay ** (len(blocks) + 1 - depth)", "layer_decay ** (len(blocks) - depth)",
     "start::layers_learn_at_decayed_rates"),
    ("units/encoders/pretrain.py", "(above if encoder.pre_ln else below)", "below",
     "start::layers_learn_at_decayed_rates"),
    ("training/loop.py", 'lr * group.get("lr_scale", 1.0)', "lr", "start::layers_learn_at_decayed_rates"),
    ("units/encoders/pretrain.py", "for row in rows], weights=weights)", "for row in rows])",
     "start::what_is_held_out_is_measured_and_changes_nothing"),
    ("units/encoders/pretrain.py", "            self.model.eval()\n", "",
     "start::what_is_held_out_is_measured_and_changes_nothing"),
    ("units/encoders/start.py", "isinstance(origin, Checkpoint) if frozen is None else frozen", "frozen",
     "start::the_front_end_of_a_start_from_outside_is_frozen"),
    ("units/encoders/checkpoint.py", "            nn.init.uniform_(model.masked_spec_embed)\n", "            pass\n",
     "start::a_mask_embedding_that_is_missing_is_drawn"),
    # --- the loop of every training
    ("training/loop.py", "peak * (step + 1) / warmup", "peak * step / warmup",
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("training/loop.py", "0.5 * (1 + math.cos(math.pi * progress))", "(1 - progress)",
     "lm_train::a_step_is_that_of_adamw_written_out"),
    ("training/loop.py", "(self.steps + 1) / (self.steps + 10)", "1.0", "vocoder_train::weights_are_an_average"),
    ("training/loop.py", "[now[name] for name in self.weights], 1 - decay)",
     "[now[name] for name in self.weights], decay)",
     "vocoder_train::weights_are_an_average"),
    ("training/loop.py", "decay: float = 0.999", "decay: float = 0.9",
     "vocoder_train::the_average_forgets_in_a_thousand_steps"),
    ("training/loop.py", '{"params": vectors, "weight_decay": 0.0}',
     '{"params": vectors, "weight_decay": weight_decay}',
     "pretrain::a_step_is_that_of_adamw_written_out"),
    ("training/loop.py", "min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))",
     "min((step + 1) / warmup, warmup / (step + 1))",
     "distributed::inverse_sqrt_is_fairseqs"),
    ("training/loop.py", "256 / (256 - drop)", "1.0",
     "pretrain::dropout_keeps_the_mean_and_is_drawn_from_torchs_generator"),
    ("training/loop.py", "np.uint8).reshape(shape)\n        kept = (torch.from_numpy(noise)[rows]",
     "np.uint8).reshape(shape)\n        kept = (torch.from_numpy(noise)[: len(x)]",
     "distributed::dropout_of_a_part_is_that_of_the_batch"),
    ("training/loop.py", "torch.manual_seed(_mix(seed, n))", "torch.manual_seed(_mix(seed, 0))",
     "lm_train::every_step_draws_its_own_random_numbers"),
    ("training/loop.py", "if name in total else metric.clone()", "if name not in total else metric.clone()",
     "distributed::micro_batches_give_the_gradient_of_the_batch"),
    ("training/loop.py", "return np.random.default_rng((seed, step))", "return np.random.default_rng((seed, 0))",
     "lm_train::an_epoch_holds_every_token_once_and_rows_are_functions_of_seed_and_number"),
    ("training/loop.py", ".clamp(min=1)).sum(-1).exp()", ".clamp(min=1)).sum(-1)", "distributed::perplexity"),
    ("training/distributed.py", "rows * (rank() + 1) // size()", "rows * (rank() + 1) // size() - 1",
     "distributed::parts_partition_the_rows"),
    ("training/distributed.py", "min(at + step, end)", "at + step", "distributed::parts_partition_the_rows"),
    ("vocoder/train.py", "share = len(real) / self.config.batch", "share = 1.0",
     "distributed::micro_batches_give_the_gradient_of_the_batch"),
    ("vocoder/train.py", "* (len(real) / self.config.batch)", "* 1.0",
     "distributed::micro_batches_give_the_gradient_of_the_batch"),
    ("lm/train.py", "units / whole.targets.numel()", "units / batch.targets.numel()",
     "distributed::micro_batches_give_the_gradient_of_the_batch"),
    ("units/encoders/pretrain.py", "whole.mask[rows].to(self.device)",
     "whole.mask[: rows.stop - rows.start].to(self.device)",
     "distributed::micro_batches_give_the_gradient_of_the_batch"),
    # --- published models
    ("audio/archives.py", "kind in (0, stat.S_IFREG) and not", "not", "models::hostile_archives_are_refused"),
    ("audio/archives.py", 'not plain or ".." in parts or', "not plain or", "models::hostile_archives_are_refused"),
    ("audio/archives.py", "len(members) > MOST_FILES or sum(", "sum(", "models::hostile_archives_are_refused"),
    ("audio/archives.py", "if sha256 is None:  # the next", "if False:  # the next",
     "models::hostile_archives_are_refused"),
    ("zoo.py", " and local(chosen) is None", "", "models::a_large_download_and_a_licence_are_said_once"),
    ("zoo.py", "not self.begun and total > LARGE", "total > LARGE",
     "models::a_large_download_and_a_licence_are_said_once"),
    ("model.py", 'return load_codebook(place).contract if known else UnitContract()', "return UnitContract()",
     "models::parts_by_name models::in_python"),
    ("types.py", " and (self.codebook is None or self.codebook != other.codebook)", "",
     "models::every_chain_by_its_name"),
    # --- features
    ("audio/mel.py", "HTK_FLOOR = 1e-6", "HTK_FLOOR = 1e-5", "hubert::log_mel_of_silence_is_its_floor"),
    ("audio/mel.py", "[20.0, SAMPLE_RATE / 2]", "[0.0, SAMPLE_RATE / 2]",
     "hubert::mel_filters_are_those_of_a_naive_computation"),
    ("audio/mel.py", "hann_window(WINDOW, periodic=False)", "hann_window(WINDOW)",
     "hubert::log_mel_equals_a_naive_one"),
    ("audio/mel.py", "centred.square().mean(0) + 1e-5", "centred.square().mean(0) + 1e-2", "hubert::normalise"),
    ("audio/mel.py", "torch.log1p(hz / 700.0)", "torch.log1p(hz / 600.0)",
     "hubert::mel_filters_are_those_of_a_naive_computation"),
    ("audio/mfcc.py", "np.float32(0.97)", "np.float32(0.95)", "mfcc::equals_fairseq"),
    ("audio/mfcc.py", "(WINDOW - 1))) ** 0.85", "(WINDOW - 1)))", "mfcc::equals_fairseq"),
    ("audio/mfcc.py", "mel(20)", "mel(0)", "mfcc::equals_fairseq"),
    ("audio/mfcc.py", "1 + LIFTER / 2", "1 + LIFTER / 3", "mfcc::equals_fairseq"),
    ("audio/mfcc.py", "+ 2 * (x[4:] - x[:-4])", "+ (x[4:] - x[:-4])", "mfcc::deltas_equal_the_formula"),
    ("audio/mfcc.py", "np.round(np.arange(frames)", "np.floor(np.arange(frames)",
     "mfcc::to_rate_rounds_to_the_nearest"),
    ("units/mfcc_lda/lda.py", '(CONTEXT, CONTEXT), (0, 0)), mode="edge"',
     '(CONTEXT, CONTEXT), (0, 0)), mode="constant"',
     "lda::context_is_made_of_neighbours"),
    ("units/mfcc_lda/lda.py", "cepstra.std(0) + np.float32(1e-5)", "cepstra.std(0) + np.float32(1)",
     "lda::context_is_made_of_neighbours"),
    ("units/mfcc_lda/lda.py", "SHRINKAGE = 1e-4", "SHRINKAGE = 1e-2", "lda::the_projection_is_scikit_learns"),
    ("units/mfcc_lda/lda.py", "moment - single.T @ single", "moment", "lda::the_projection_is_scikit_learns"),
    ("units/mfcc_lda/lda.py", "(moment - (sums / counts[:, None]).T @ sums) / counts.sum()", "moment / counts.sum()",
     "lda::projection_whitens_within_clusters"),
    ("units/mfcc_lda/vtln.py", "HIGHEST = 7600.0", "HIGHEST = 8000.0",
     "ladder::warping_fetches_from_the_warped_frequency"),
    ("units/mfcc_lda/vtln.py", "torch.expm1(mels / 1127.0) * warp", "torch.expm1(mels / 1127.0) / warp",
     "ladder::warping_fetches_from_the_warped_frequency"),
    ("units/mfcc_lda/vtln.py", "self.distortion(mel[:MEASURED], warp)", "self.distortion(mel, warp)",
     "ladder::only_the_first_minute_of_a_file_counts"),
    ("units/mfcc_lda/vtln.py", 'mode="replicate"', 'mode="constant"',
     "ladder::modulation_cepstra_are_two_cosine_transforms"),
    ("units/mfcc_lda/vtln.py", "torch.hamming_window(size, periodic=False)", "torch.hann_window(size, periodic=False)",
     "ladder::modulation_cepstra_are_two_cosine_transforms"),
    # --- HuBERT, and as it is for inference
    ("units/encoders/hubert.py", "q.shape[-1] ** -0.5", "q.shape[-1] ** -1",
     "hubert::equals_transformers_layer_by_layer"),
    ("units/encoders/hubert.py", '"layer_norm_1e-5": 1e-5', '"layer_norm_1e-5": 1e-3',
     "extract::a_quiet_file_is_normalised_with_the_epsilon_of_its_kind"),
    ("units/encoders/hubert.py", "attend = ~padding[:, None, None, :]", "attend = None", "hubert::padding_is_not_seen"),
    ("units/encoders/hubert.py", "x = x.masked_fill(padding[..., None], 0)", "pass", "hubert::padding_is_not_seen"),
    ("units/encoders/hubert.py", "padding.repeat_interleave(2, dim=1)[:, 1 :",
     "padding.repeat_interleave(2, dim=1)[:, 0 :",
     "hubert::padding_is_not_seen pretrain::losses_are_those_of_the_rows_by_hand"),
    ("units/encoders/extract.py", "MARGIN = 1 / 12", "MARGIN = 1 / 48", "extract::windows_by_number"),
    ("units/encoders/extract.py", "start = kept - margin", "start = kept", "extract::windows_by_number"),
    ("units/encoders/extract.py", "self._tile(x[i * HOP :]", "self._tile(x[i * HOP + 1 :]",
     "extract::how_a_file_is_cut_does_not_matter"),
    ("units/encoders/extract.py", "variance + 1e-5)", "variance + 1e-3)",
     "extract::level_does_not_matter extract::equals_the_model"),
    ("units/encoders/extract.py", "y[..., total - low - 1 :] = 0", "pass", "extract::equals_the_model"),
    ("units/encoders/extract.py", "left, step = self.kernel // 2,", "left, step = self.kernel // 2 - 1,",
     "extract::equals_the_model"),
    ("units/encoders/extract.py", "return x + fed, fed", "return x + fed, x",
     "extract::the_ffn_is_what_the_feed_forward_network_returns"),
    ("units/encoders/extract.py", "return _norm(x + fed, self.norm2), fed",
     "return (y := _norm(x + fed, self.norm2)), y",
     "extract::the_ffn_is_what_the_feed_forward_network_returns"),
    ("units/encoders/extract.py", "y = F.gelu(F.layer_norm(y, y.shape[1:]))", "y = F.gelu(y)",
     "extract::equals_the_model encoder_layouts::equals_the_project_layer_by_layer"),
    ("units/encoders/hubert.py", "x = F.gelu(F.layer_norm(y, y.shape[-1:]))", "x = F.gelu(y)",
     "extract::equals_the_model"),
    ("units/encoders/hubert.py", "x = x.masked_fill(padding.unsqueeze(-1), 0)", "pass",
     "hubert::padding_is_not_seen_by_a_stack_of_convolutions"),
    ("units/encoders/hubert.py", "math.frexp(largest)[1] + PART.bit_length()", "math.frexp(largest)[1]",
     "hubert::sums_of_squares_are_rounded_once"),
    ("units/encoders/layouts/source.py", 'for i, part in enumerate("qkv")', 'for i, part in enumerate("kqv")',
     "encoder_layouts::equals_the_project_layer_by_layer"),
    ("units/encoders/layouts/spidr.py", 'normalisation="layer_norm_1e-5"', 'normalisation="none"',
     "encoder_layouts::equals_the_project_layer_by_layer"),
    ("units/encoders/layouts/by_shapes.py", "source.declared_heads or by_width.get(dim)", "max(1, dim // 64)",
     "encoder_layouts::heads_are_never_guessed"),
    ("units/encoders/load.py", "tap=tap or checkpoint.tap", 'tap=tap or "block"',
     "encoder_layouts::the_tap_is_the_project_s_unless_it_is_chosen"),
    ("types.py", 'return self.tap or (None if self.layer is None else "block")', "return self.tap",
     "types::a_block_is_not_its_ffn"),
    ("units/encoders/hubert_encoder.py", '({} if tap == "block" else {"tap": tap})', "{}",
     "checkpoints::a_tap_is_part_of_the_identity"),
    ("units/encoders/extract.py", "+ EPSILON[normalisation]) ** -0.5", "+ 1e-5) ** -0.5",
     "extract::a_quiet_file_is_normalised_with_the_epsilon_of_its_kind"),
    # --- codebooks of other tools
    ("units/faiss_index.py", "centroids - offset.astype(np.float64)", "centroids + offset.astype(np.float64)",
     "centroids::units_are_those_of_faiss"),
    ("units/faiss_index.py", "len(centroids) * matrix.shape[1] <= LARGEST", "True",
     "centroids::a_hostile_index_is_refused"),
    ("units/faiss_index.py", "if metric != L2:", "if False:", "centroids::a_hostile_index_is_refused"),
    ("units/faiss_index.py", "centroids.shape[1] == dim and", "", "centroids::a_hostile_index_is_refused"),
    ("units/centroids.py", "if sum(e.file_size for e in entries) > limit:", "if False:",
     "centroids::an_archive_that_grows_is_refused"),
    ("units/centroids.py", 'order="F" if is_fortran else "C"', 'order="C"', "centroids::centroids_are_those_written"),
    ("units/centroids.py", "if len(tables) > 1 and not named:", "if False:",
     "centroids::what_is_no_codebook_is_refused"),
    ("units/head.py", "@ self.weight.T + self.bias", "@ self.weight.T",
     "head::scores_written_out head::units_are_those_of_the_original"),
    ("units/head.py", "layer - (blocks - heads) - 1", "layer - (blocks - heads) - 2",
     "head::units_are_those_of_the_original"),
    # --- smoothing
    ("units/smoothing.py", "np.minimum(before, price, out=cheapest)", "np.minimum(before, np.inf, out=cheapest)",
     "smoothing::the_cheapest_of_all_sequences"),
    ("units/smoothing.py", "if totals[s, unit] > price:", "if totals[s, unit] >= price:",
     "smoothing::ties_keep_the_unit_and_then_take_the_first"),
    ("units/smoothing.py", "np.flatnonzero(self._totals[t] <= self.price)", "self._best[t : t + 1]",
     "smoothing::the_cheapest_of_all_sequences smoothing::units_are_those_of_a_naive_viterbi"),
    ("units/smoothing.py", "np.where(self._totals[t, units] <= self.price, units, self._best[t])",
     "np.full(len(units), self._best[t])", "smoothing::units_are_those_of_a_naive_viterbi"),
    ("units/smoothing.py", "t > max(first, due)", "t > first",
     "smoothing::units_come_before_the_end_and_within_the_delay"),
    ("units/smoothing.py", "self.seams += 1", "pass",
     "smoothing::a_bounded_look_back_differs_in_counted_places_only"),
    ("units/smoothing.py", "np.split(costs, [BLOCK - self._since])", "np.split(costs, [BLOCK])",
     "smoothing::pieces_change_nothing"),
    ("units/smoothing.py", "return smoothing * squared", "return smoothing",
     "smoothing::the_price_is_in_mean_squared_distances_of_the_training_frames"),
    ("units/smoothing.py", "distances.append(np.sqrt(squared.min(1)))", "distances.append(np.sqrt(squared.max(1)))",
     "smoothing::the_price_is_in_mean_squared_distances_of_the_training_frames"),
    ("units/kmeans.py", "scores - least + squared[:, None]", "scores - least",
     "smoothing::distances_to_all_units"),
    ("types.py", 'name == "smoothing" and not together', "False",
     "smoothing::a_model_takes_units_of_another_smoothing_with_a_warning"),
    ("types.py", "if self.smoothing == 0:", "if False:",
     "smoothing::a_contract_without_smoothing_is_as_before_there_was_any"),
    ("model.py", "with_(smoothing=spoken.smoothing)", "with_()",
     "smoothing::a_set_encodes_the_units_that_its_language_model_knows"),
    ("units/head.py", 'layer if tap == "ffn" else blocks', "layer", "head::units_are_those_of_the_original"),
    ("units/head.py", "if project is not None and tap not in (None, TAPS[project]):", "if False:",
     "head::a_checkpoint_without_its_configuration_needs_the_tap"),
    # --- CPC
    ("units/encoders/cpc.py", "torch.var_mean(y, 1, keepdim=True)", "torch.var_mean(y, 1, keepdim=True, correction=0)",
     "cpc::a_layer_is_that_of_the_original"),
    ("units/encoders/cpc.py", "self.padding if is_last else 0", "0", "cpc::a_layer_is_that_of_the_original"),
    ("units/encoders/cpc.py", "x, states[k] = lstm(x, states[k])", "x, _ = lstm(x, None)", "cpc::pieces_are_the_whole"),
    ("units/encoders/cpc.py", "yield [x[-(at - done) :] for x in frames]", "yield frames",
     "cpc::chunks_and_normalised_frames_are_those_of_the_original cpc::a_rest_shorter_than_a_frame_adds_none"),
    ("units/encoders/cpc.py", "+ change**2 * (n * (count - n) / count)", "", "cpc::pieces_are_the_whole"),
    ("units/encoders/cpc.py", "window=self.chunk / SAMPLE_RATE", "window=0.0",
     "cpc::chunks_and_normalised_frames_are_those_of_the_original"),
    # --- k-means
    ("units/kmeans.py", "bias - 2 * (x @ centroids.T)", "bias - (x @ centroids.T)",
     "kmeans::predict_is_the_nearest_centroid"),
    ("units/kmeans.py", "best = scores.argmin(1)", "best = scores.shape[1] - 1 - scores[:, ::-1].argmin(1)",
     "kmeans::the_first_of_equal_centroids_wins"),
    ("units/kmeans.py", "self.centroids.mean(0)", "0 * self.centroids.mean(0)",
     "kmeans::frames_far_from_the_origin_keep_their_digits"),
    ("units/kmeans.py", "keepdims=True) + np.float32(1e-5))", "keepdims=True) + np.float32(1e-2))",
     "kmeans::layer_norm_written_out"),
    ("units/kmeans.py", '"0.95" if seconds < SHORT else "0.75"', '"0.99" if seconds < SHORT else "0.75"',
     "distance::far_is_by_quantile"),
    ("units/kmeans.py", '"0.95" if seconds < SHORT else "0.75"', '"0.95" if seconds < SHORT else "0.5"',
     "distance::far_is_by_quantile"),
    ("units/kmeans.py", "SHORT = 2.0", "SHORT = 1.5", "distance::far_is_by_quantile"),
    ("units/kmeans.py", "np.quantile(distances, float(q))", "np.quantile(distances, float(q) / 2)",
     "distance::a_codebook_knows_its_training"),
    ("units/lloyd.py", "curve[-2] - curve[-1] <= tolerance * curve[-2]", "curve[-2] - curve[-1] <= tolerance",
     "kmeans::it_stops_and_keeps_the_best_start"),
    ("units/lloyd.py", "assignment.sums[alive] / assignment.counts[alive, None]",
     "assignment.sums[alive] / (assignment.counts[alive, None] + 1)",
     "kmeans::lloyd_is_the_naive_one"),
    ("units/lloyd.py", "centroids[dead[: len(far)]] = far", "pass",
     "kmeans::dead_centroids_are_put_on_the_farthest_frames"),
    ("units/lloyd.py", "np.minimum(distances, nearest, out=distances)", "pass", "kmeans::plus_plus_spreads_its_seeds"),
    ("units/lloyd.py", "draw.random(trials) * cumulative[-1]", "draw.random(trials) * 0",
     "kmeans::plus_plus_spreads_its_seeds"),
    ("units/lloyd.py", "key=lambda result: result[1][-1]", "key=lambda result: -result[1][-1]",
     "kmeans::it_stops_and_keeps_the_best_start"),
    ("units/lloyd.py", "draw = np.random.default_rng(seed)", "draw = np.random.default_rng(0)",
     "kmeans::the_same_seed_gives_the_same_bytes"),
    ("units/frames.py", "(z >> np.uint64(30))", "(z >> np.uint64(0))", "frames::a_sample_is_uniform"),
    ("units/frames.py", 'f"{seed}/{name}"', 'f"{name}"', "frames::a_sample_does_not_depend_on_the_shards"),
    ("units/frames.py", "draw.random(len(frames)) < fraction", "draw.random(len(frames)) > fraction",
     "frames::thin_keeps_a_share_that_depends_on_the_name"),
    # --- merged units
    ("units/merges.py", "spelled[a] + spelled[b]", "spelled[b] + spelled[a]", "merges::a_table_by_hand"),
    ("units/merges.py", "known.setdefault(whole, len(spelled)) == len(spelled)", "True",
     "merges::a_pair_of_known_units_is_another_way_to_the_same"),
    ("units/merges.py", "np.add.reduceat(durations, np.cumsum(lengths) - lengths)", "lengths",
     "merges::a_table_by_hand"),
    ("units/merges.py", "(place < np.repeat(rest, lengths))", "0", "merges::sampled_units_share_their_frames"),
    ("units/merges.py", "FIRST = 0x10000", "FIRST = 0", "merges::a_large_codebook_and_its_last_units"),
    ("units/merges.py", "self._starts + self.lengths - 1", "self._starts", "merges::a_table_by_hand"),
    ("units/merges.py", "max_token_length=LONGEST", "max_token_length=None",
     "merges::a_trained_unit_is_never_longer_than_what_is_read"),
    ("lm/generate.py", "self.merges.first == self.merges.last[last]", "self.merges.first == last",
     "merges::no_base_unit_follows_itself"),
    ("types.py", 'return self.merges or "none"', "return self.merges", "merges::contracts"),
    ("types.py", "if self.contract.merges:\n            return Units(self.units, self._durations(), self.contract)",
     "if False:\n            pass", "merges::merged_units_are_never_joined"),
    # --- figures of units
    ("metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]", "quality::the_interval_of_pnmi_is_the_bootstrap_written_out"),
    ("metrics/pnmi.py", "drawn - drawn.mean() + whole", "drawn", "quality::the_interval_of_pnmi_is_not_biased"),
    ("metrics/pnmi.py", "RESAMPLES = 200", "RESAMPLES = 20",
     "quality::the_interval_of_pnmi_is_the_bootstrap_written_out"),
    ("metrics/pnmi.py", "float(information / entropy)", "float(information)",
     "quality::figures_equal_a_naive_computation"),
    ("metrics/pnmi.py", "float(joint.max(0).sum())", "float(joint.max(1).sum())",
     "quality::figures_equal_a_naive_computation"),
    ("metrics/bitrate.py", "bits_of_runs * n_runs / seconds", "bits * n_runs / seconds",
     "quality::cost_of_units"),
    ("metrics/bitrate.py", "draws - draws.mean() + value", "draws",
     "groups::intervals_of_costs_are_the_bootstrap_written_out"),
    ("metrics/groups.py", "values[highest] - values[lowest]", "values[highest]",
     "groups::a_group_is_measured_as_if_it_were_alone"),
    ("metrics/groups.py", "gold.get(groups[own[0].id])", "gold.get(own[0].id)", "groups::scores_of_a_group"),
    # --- probes
    ("metrics/similarity.py", "return x - x.mean(0)\n", "return x\n", "similarity::cka_is_that_of_the_gram_matrices"),
    ("metrics/similarity.py", "np.sqrt(weights)[:, None]", "weights[:, None]",
     "similarity::cka_is_that_of_the_gram_matrices"),
    ("metrics/similarity.py", "float(np.linalg.norm(y.T @ x)) ** 2", "float(np.linalg.norm(y.T @ x))",
     "similarity::cka_is_that_of_the_gram_matrices"),
    ("metrics/similarity.py", "RANK = 1e-8", "RANK = -1.0",
     "similarity::one_hot_labels_have_one_direction_less_than_classes"),
    ("metrics/similarity.py", "len(u) <= v.shape[1]", "len(u) > v.shape[1]",
     "similarity::pwcca_is_that_of_orthogonal_bases"),
    ("metrics/similarity.py", "np.abs(columns).sum(0)", "(columns**2).sum(0)",
     "similarity::pwcca_is_that_of_orthogonal_bases"),
    ("metrics/similarity.py", "CCA.fit(x[train], y[train])", "CCA.fit(x[test], y[test])",
     "similarity::held_out_cca_is_measured_on_other_rows"),
    ("metrics/similarity.py", "drawn - drawn.mean() + linear_cka(x, y)", "drawn",
     "similarity::the_interval_of_cka_is_the_bootstrap_written_out"),
    ("metrics/probing.py", "split.split(y, y, group)", "split.split(y, y, np.arange(len(y)))",
     "probe::a_group_is_never_on_both_sides"),
    ("metrics/probing.py", "np.bincount(y[train]).argmax()", "np.bincount(y[train]).argmin()",
     "probe::accuracy_and_chance_are_those_of_scikit_learn"),
    ("metrics/probing.py", "np.random.default_rng(seed).permutation(y[train])", "y[train]",
     "probe::random_labels_stay_at_chance"),
    ("metrics/labelled.py", "label[t] is not None and numbers[t]", "numbers[t]",
     "probe::the_sample_does_not_depend_on_the_order_and_is_of_labelled_frames"),
    ("metrics/labelled.py", "np.random.default_rng((self.seed, digest))", "np.random.default_rng(self.seed)",
     "probe::the_sample_does_not_depend_on_the_order_and_is_of_labelled_frames"),
    ("metrics/encoded.py", "* other_rate / frame_rate", "* frame_rate / other_rate",
     "probe::layers_in_one_pass_and_other_features"),
    ("metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]", "difference::the_interval_is_the_bootstrap_written_out"),
    ("metrics/difference.py", "drawn - drawn.mean() + value", "drawn",
     "difference::the_interval_is_the_bootstrap_written_out"),
    ("metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]", "speech_quality::intervals_equal_a_naive_bootstrap"),
    ("metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]",
     "speech_quality::the_paired_difference_sees_what_intervals_hide"),
    ("metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]", "score::interval_is_the_bootstrap"),
    ("metrics/units.py", '    "abx_across": _abx_metric("ABX error, units, across speakers"),\n', "",
     "metrics::every_key_that_is_returned_is_declared_and_the_reverse"),
    ("metrics/table.py", "if metric.printed and name in values", "if not metric.baseline and name in values",
     "metrics::every_metric_is_printed_with_its_interval_and_baseline"),
    ("metrics/edit_distance.py", "right_more << 1 | 1", "right_more << 1",
     "robustness::edit_distance_equals_a_naive_computation"),
    ("metrics/edit_distance.py", "| equal | less  #", "| equal  #",
     "robustness::edit_distance_equals_a_naive_computation"),
    # --- units mapped to phones, and discovered terms
    ("metrics/discovery.py", 'kind="stable")[::-1]', 'kind="stable")', "discovery::scores_are_those_of_discophon"),
    ("metrics/discovery.py", "np.repeat(file.units, file.step // STEP)", "file.units",
     "discovery::scores_are_those_of_discophon"),
    ("metrics/discovery.py", "linear_sum_assignment(np.pad(table.counts, ((0, absent), (0, 0))), maximize=True)",
     "linear_sum_assignment(np.pad(table.counts, ((0, absent), (0, 0))))", "discovery::scores_are_those_of_discophon"),
    ("metrics/discovery.py", "(_runs(mapping[file.units]), _runs(file.phones))",
     "(mapping[file.units], _runs(file.phones))", "discovery::scores_are_those_of_discophon"),
    ("metrics/discovery.py", '{SAME: scored} | ({"": _files(*fit, step, names)} if fit else {})',
     '{SAME: scored} | ({"": scored} if fit else {})', "discovery::a_mapping_fitted_on_other_files"),
    ("metrics/discovery.py", "if abs(ends[0] - ends[1]) > step", "if ends[1] - ends[0] > step",
     "discovery::what_cannot_be_scored"),
    ("metrics/discovery.py", "yield SILENCE, first - at", "yield phone, first - at",
     "discovery::where_nothing_is_labelled_is_silence"),
    ("metrics/boundaries.py", "np.maximum(first[1:], middle + 1)", "np.maximum(first[1:], middle)",
     "discovery::windows_part_at_whole_milliseconds"),
    ("metrics/boundaries.py", 'np.searchsorted(predicted, last, side="right")',
     'np.searchsorted(predicted, last, side="left")', "discovery::windows_part_at_whole_milliseconds"),
    ("metrics/boundaries.py", "(inside > 0).sum()", "inside.sum()", "discovery::windows_part_at_whole_milliseconds"),
    ("metrics/boundaries.py", "self.predicted / self.gold - 1", "self.predicted / self.gold",
     "discovery::scores_are_those_of_discophon"),
    ("metrics/term_discovery.py", "total += times[()] * (times[()] - 1) // 2", "total += 0",
     "discovery::edit_distance_and_coverage_from_the_definition"),
    ("metrics/term_discovery.py", ">= 0.030 if", "> 0.030 if", "discovery::terms_are_those_of_tdev2"),
    ("metrics/term_discovery.py", "(onsets & begins) | (offsets & ends)", "(onsets | offsets) & (begins | ends)",
     "discovery::terms_are_those_of_tdev2"),
    ("metrics/term_discovery.py", "len({hit[:2] for hit in hits})", "len(types)",
     "discovery::terms_are_those_of_tdev2"),
    ("metrics/labels.py", "if headed and start !=", "if False and start !=", "discovery::discophons_alignments"),
    ("metrics/alignments.py", "(t - window / 2) * frame_rate", "t * frame_rate",
     "abx::frames_of_a_phone_have_their_middle_inside"),
    ("metrics/items.py", "- 0.5 + ROUNDING) + 1", "- 0.5 + ROUNDING)", "abx::frames_of_an_item_by_either_rule"),
    ("metrics/items.py", "- 0.5 - ROUNDING", "- 0.5", "abx::frames_of_an_item_by_either_rule"),
    ("metrics/abx_error.py", "(to_b <= to_a)", "2 * (to_b <= to_a)", "abx::errors_equal_a_naive_computation"),
    ("metrics/abx_error.py", "(table.sizes[a] - tiles.within)", "table.sizes[a]",
     "abx::errors_equal_a_naive_computation"),
    ("metrics/abx_error.py", "keys % (n * n), return_inverse", "keys, return_inverse",
     "abx::averages_are_over_contexts_then_speakers_then_pairs"),
    ("metrics/abx_error.py", "keep = (a != x) & several[a]", "keep = several[a]",
     "abx::errors_equal_a_naive_computation"),
    ("metrics/abx_error.py", "table.rank[column] < table.rank[item]", "table.rank[column] > table.rank[item]",
     "abx::errors_equal_those_of_fastabx"),
    ("metrics/abx_error.py", 'around *= context == "within"', "pass",
     "abx::a_context_of_any_phones_is_one_context"),
    ("metrics/abx_error.py", "cosines[silent_a[:, None] != silent_b] = -1", "pass",
     "abx::a_frame_of_zeros_is_far_from_all_others"),
    ("metrics/dtw.py", "costs[i - 1, j - 1, a:])", "costs[i - 1, j, a:])", "abx::distances_equal_naive_ones"),
    ("metrics/dtw.py", "straight = (diagonal <= left) & (diagonal <= up)",
     "straight = (diagonal < left) & (diagonal < up)", "abx::distances_equal_naive_ones"),
    ("metrics/dtw.py", "left, up, cost = 1 << bits, 2 << bits", "left, up, cost = 2 << bits, 1 << bits",
     "abx::distances_equal_naive_ones"),
    ("metrics/dtw.py", "bits = (height + width).bit_length()", "bits = 5", "abx::distances_equal_naive_ones"),
    ("types.py", "first = round(min(start, self.seconds)", "first = int(min(start, self.seconds)",
     "types::slices_are_rounded_to_frames"),
    ("types.py", "else round(min(stop, self.seconds)", "else int(min(stop, self.seconds)",
     "types::slices_are_rounded_to_frames"),
    ("types.py", "a is not None and b is not None and a != b", "a is not None and b is not None and a is b",
     "types::contract_names_field_and_both_values"),
    ("types.py", "<= units.max() < (n or MOST_UNITS)", "<= units.max() <= (n or MOST_UNITS)",
     "types::outside_the_codebook"),
    ("types.py", "if (getattr(self, f.name) is None) != (getattr(other, f.name) is None)", "if False",
     "types::unknown_against_known_warns"),
    ("metrics/perturb.py", "2 ** (semitones / 12)", "2 ** (semitones / 6)",
     "robustness::frequency_and_length_of_a_sine"),
    ("metrics/perturb.py", "10 ** (snr / 10)", "10 ** (snr / 20)", "robustness::noise_has_the_power_asked_for"),
    ("metrics/robustness.py", " / clean.n_frames", " / changed.n_frames",
     "robustness::distance_is_between_runs_relative_to_the_clean_files_frames"),
    # --- dumps, audio, engine
    ("units/dump.py", "lengths - (pieces - 1) * LONGEST", "lengths - pieces * LONGEST", "dump::a_long_run_is_split"),
    ("units/dump.py", "LONGEST = 65535", "LONGEST = 65536", "dump::a_long_run_is_split"),
    ("units/dump.py", 'totals["frames"] / contract.frame_rate / 3600', 'totals["frames"] / 3600',
     "dump::round_trip_and_random_access"),
    ("audio/io.py", "block.mean(axis=1)", "block[:, 0]", "audio::channels_are_averaged"),
    ("audio/io.py", "block.clip(-1, 1)", "block", "audio::samples_stay_within_one"),
    ("audio/io.py", "np.rint(waveform * 32768.0)", "np.rint(waveform * 32767.0)",
     "audio::sixteen_bits_come_back_bit_for_bit"),
    ("audio/io.py", "(2 * samples * target + rate) // (2 * rate)", "samples * target // rate",
     "audio::the_length_from_the_header_is_that_of_the_waveform"),
    ("audio/io.py", "max(0, offset - early) * common", "offset * common",
     "audio::a_part_of_a_lossless_file_is_that_slice"),
    ("audio/io.py", 'quality="HQ"', 'quality="QQ"', "audio::resampling_against_scipy"),
    ("engine/shards.py", "ROWS_PER_SHARD).bit_length()", "ROWS_PER_SHARD + 1).bit_length()",
     "engine::shards_by_number"),
    ("engine/shards.py", "ROWS_PER_SHARD = 64", "ROWS_PER_SHARD = 32", "engine::shards_by_number"),
    ("engine/step.py", "sort_keys=True, separators", "sort_keys=False, separators",
     "engine::a_key_is_the_hash_of_the_canonical_payload"),
    ("engine/step.py", '"version": step.version, "fields": settings}', '"version": 1, "fields": settings}',
     "engine::inputs_and_version_enter"),
    ("engine/step.py", "k not in defaults or defaults[k] != v", "k not in defaults",
     "engine::defaults_and_runtime_fields_stay_out"),
    ("engine/step.py", '"fields": settings, "inputs"', '"fields": {}, "inputs"',
     "reliability::a_key_of_a_shard_tells_all_that_it_depends_on"),
    ("steps/units.py", "max_frames: Count | None = 1_000_000\n    seed: Seed = 0",
     "max_frames: Count | None = 1_000_000\n    seed: Seed = runtime(0)",
     "engine::the_seed_of_every_step_enters_its_key"),
    ("training/configs.py", "seed: Seed = 0", "seed: Seed = runtime(0)",
     "engine::the_seed_of_every_step_enters_its_key"),
    # --- language models
    ("lm/train.py", "DURATION_WEIGHT = 0.25", "DURATION_WEIGHT = 2.5",
     "lm_train::the_gradient_is_that_of_the_documents_one_by_one"),
    ("lm/train.py", "betas=(0.9, 0.95)", "betas=(0.9, 0.98)", "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "betas=(0.9, 0.95), fused=True", "betas=(0.9, 0.95), eps=1e-6, fused=True",
     "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "clip=1.0", "clip=100.0", "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "round(0.03 * self.updates)", "round(0.3 * self.updates)",
     "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "decay_groups(model, 0.1)", "decay_groups(model, 0.01)",
     "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "warmup=warmup, floor=peak * 0.05", "warmup=warmup",
     "lm_train::a_step_is_that_of_adamw_written_out"),
    ("lm/train.py", "packer.batch(n * rows, rows)", "packer.batch(n, rows)",
     "lm_train::the_gradient_is_that_of_the_documents_one_by_one"),
    ("lm/train.py", "total / math.log(2) / (sum", "total / (sum", "lm_train::evaluate"),
    ("lm/train.py", "start=np.ones(n_units + 1, np.int64)", "start=np.full(n_units + 1, 2)", "lm_train::unigram"),
    # --- pitch as a second stream
    ("audio/pitch.py", "is_voiced = 2 * voiced >= durations", "is_voiced = voiced >= durations",
     "pitch::a_unit_is_voiced_where_half_of_its_frames_are"),
    ("audio/pitch.py", "octaves / np.maximum(voiced, 1) - mean", "octaves / durations - mean",
     "pitch::pitch_of_units_is_that_of_a_naive_loop"),
    ("audio/pitch.py", "np.rint(np.where(is_voiced, steps, 1))", "np.floor(np.where(is_voiced, steps, 1))",
     "pitch::pitch_of_units_is_that_of_a_naive_loop pitch::the_way_back_to_hz_is_within_half_a_step"),
    ("audio/pitch.py", "mean = means[row.speaker] if by_speaker else",
     "mean = means[row.speaker] if False else",
     "pitch::the_mean_is_that_of_all_files_of_the_speaker"),
    ("lm/packing.py", "np.where(is_unit, values[:-1], 0)", "values[:-1]",
     "pitch::packed_rows_hold_the_pitch_before_each_token"),
    ("lm/decoder.py", "[0] * (self.begins + 1) + units.pitch", "[0] * self.begins + units.pitch",
     "pitch::each_stream_has_the_likelihood_of_a_naive_loop pitch::pitch_is_read_one_unit_late"),
    ("lm/generate.py", "self.before.append(self.pitch[-1])", "self.before.append(0)",
     "pitch::sampling_is_that_of_a_naive_loop"),
    ("lm/streams.py", "hidden = hidden[max(0, 1 - at.start) :]", "hidden = hidden[1:]",
     "pitch::long_rows_are_scored_in_the_windows_of_nll"),
    ("lm/train.py", "batch.pitch.flatten(), reduction=\"sum\"", "batch.durations.flatten(), reduction=\"sum\"",
     "pitch::three_losses_are_plain_means"),
    ("lm/train.py", "*means, pitch / count", "*means, pitch / whole.targets.numel()",
     "pitch::three_losses_are_plain_means"),
    ("vocoder/model.py", "level = mean_octaves([f0])", "level = mean_octaves([f0]) + 0.1",
     "pitch::the_vocoder_follows_pitch_above_its_own_level"),
    ("types.py", "np.where(2 * voiced >= durations", "np.where(2 * voiced > durations",
     "pitch::pitch_follows_the_units_that_are_cut_and_joined"),
    # --- packing
    ("lm/packing.py", "(place <= place[:, None])", "(place <= place[:, None] + 1)",
     "lm_train::document_mask_is_block_diagonal_and_causal"),
    ("lm/packing.py", "(place >= first)", "(place >= 0)", "lm_train::packed_loss_is_that_of_the_documents_one_by_one"),
    ("lm/packing.py", "np.minimum(d.durations, max_duration)", "np.minimum(d.durations, max_duration + 1)",
     "lm_train::rows_hold_documents_between_ends"),
    ("lm/packing.py", "rng(self.seed, epoch)", "rng(0, epoch)",
     "lm_train::an_epoch_holds_every_token_once_and_rows_are_functions_of_seed_and_number"),
    ("lm/model.py", "config.rope_theta**-half", "10000.0**-half", "lm::logits_equal_llama"),
    ("lm/model.py", "F.linear(hidden, self.embed.weight)", "F.linear(hidden, self.embed.weight.detach())",
     "lm_train::the_gradient_is_that_of_the_documents_one_by_one"),
    ("lm/model.py", "torch.cat([-b, a], dim=-1) * sin", "torch.cat([b, a], dim=-1) * sin", "lm::logits_equal_llama"),
    ("lm/model.py", "is_causal=mask is None", "is_causal=False", "lm::logits_equal_llama"),
    ("lm/model.py", "(2 * self.config.layers) ** 0.5", "1.0", "lm::fresh_weights_have_the_deviation_of_gpt_2"),
    ("lm/decoder.py", "first + self.config.context // 2", "first + self.config.context // 4",
     "lm::nll_is_teacher_forcing_and_windowed_beyond_the_context"),
    ("lm/fast_decode.py", "(weight.abs().amax(1) / 127)", "(weight.abs().amax(1) / 63)",
     "fast_decode::int8_is_its_definition"),
    ("lm/fast_decode.py", "dim**-0.5", "dim**-1.0", "fast_decode::reading_in_pieces_is_the_model"),
    ("lm/hf/arrange.py", "view(heads, group, width).transpose(0, 1)", "view(group, heads, width)",
     "foreign_lm::reading_in_pieces_is_the_model"),
    ("lm/hf/arrange.py", "places[first:]", "places[first - 1 :]", "foreign_lm::reading_in_pieces_is_the_model"),
    ("lm/hf/foreign.py", "torch.log_softmax(self.logits(hidden).double(), -1)[..., self.predicted]",
     "torch.log_softmax(self.logits(hidden).double()[..., self.predicted], -1)",
     "foreign_lm::nll_is_over_the_whole_vocabulary_and_windowed"),
    ("lm/hf/foreign.py", "weight.detach()[units], second if first is None else first",
     "weight.detach()[units], second", "foreign_lm::for_training_keeps_the_units"),
    ("lm/decoder.py", "np.append(np.log(self.n_units), scores)", "np.append(0.0, scores)",
     "foreign_lm::nll_is_over_the_whole_vocabulary_and_windowed"),
    ("lm/generate.py", "self.tokens[int(self.begins) :]", "self.tokens[1:]",
     "foreign_lm::the_first_unit_counts_as_seen"),
    ("lm/generate.py", "round(frames * len(prompt) / prompt.n_frames)", "frames",
     "foreign_lm::a_deduplicated_prompt_is_continued_without_repeats_and_durations"),
    ("metrics/lm.py", "totals, units + ends(model)", "totals, units + 1",
     "foreign_lm::scores_count_the_tokens_that_are_predicted"),
    ("lm/generate.py", "/ self.temperature)", "* self.temperature)", "lm::what_is_drawn_at_a_temperature"),
    ("lm/generate.py", "before >= self.top_p * p.sum()", "before + p[order[1:]] >= self.top_p * p.sum()",
     "lm::what_is_drawn_from"),
    ("lm/generate.py", "np.argpartition(-logits, self.top_k - 1)[: self.top_k]",
     "np.argpartition(-logits, self.top_k)[: self.top_k + 1]",
     "lm::what_is_drawn_at_a_temperature"),
    ("lm/generate.py", "p[p < self.min_p] = 0", "p[p < self.min_p / 2] = 0", "lm::what_is_drawn_from"),
    ("lm/generate.py", "logits[old] * penalty)", "logits[old] / penalty)", "lm::repetition"),
    ("lm/generate.py", "np.random.default_rng(seed)", "np.random.default_rng(0)", "lm::seeds"),
    ("lm/generate.py", "round(seconds * lm.frame_rate)", "int(seconds * lm.frame_rate)",
     "lm::seconds_are_rounded_to_frames"),
    ("lm/generate.py", "Sampling(temperature=self.sampling.temperature)", "Sampling(temperature=1.0)",
     "lm::durations_are_sampled_from_the_head_at_the_same_temperature"),
    ("lm/generate.py", "if self.deduplicated and self.tokens[-1] != self.end:", "if False:",
     "lm::length_is_exact_and_nothing_follows_itself"),
    ("lm/ngram.py", "[0.0, 0.5, 1.0, 1.5]", "[0.0, 0.5, 0.5, 1.5]", "ngram::discounts"),
    ("lm/ngram.py", "y = n1 / (n1 + 2 * n2)", "y = n1 / (n1 + n2)", "ngram::discounts"),
    ("lm/ngram.py", "times[n_units] -= len(sequences)", "pass", "ngram::equals_the_naive_dictionaries"),
    ("lm/ngram.py", "p = np.full(len(tokens), 1 / base)", "p = np.full(len(tokens), 1 / self.n_units)",
     "ngram::probabilities_sum_to_one"),
    ("metrics/lm.py", "worth = np.array([0.0, 0.5, 1.0])", "worth = np.array([0.0, 1.0, 1.0])",
     "score::pairs_by_sum_and_by_unit"),
    ("metrics/lm.py", "SEGMENT = 0.5", "SEGMENT = 0.25", "score::shuffling_is_never_the_identity"),
    ("metrics/diversity.py", "if c > 1) / max(1", "if c > 0) / max(1", "diversity::by_hand"),
    ("metrics/bleu.py", "** (1 / len(values))", "** 1", "diversity::by_hand"),
    # --- continuations
    ("metrics/bleu.py", "first[gram] <= place - n or", "first[gram] < place or", "continuations::bleu_by_hand"),
    ("metrics/bleu.py", "last[gram] >= place + n", "last[gram] > place + n", "continuations::against_the_definitions"),
    ("metrics/bleu.py", "next_most[g] if times == most[g] else most[g]", "most[g]",
     "continuations::against_the_definitions"),
    ("metrics/continuations.py", "(between * within) ** 0.5", "(between + within) / 2",
     "continuations::summary_by_hand"),
    ("metrics/continuations.py", "np.sqrt(b * w)", "b * w", "continuations::summary_by_hand"),
    ("metrics/continuations.py", "report(\"gen_ppl\", float(np.exp(value))", "report(\"gen_ppl\", float(value)",
     "continuations::summary_by_hand"),
    ("metrics/continuations.py", "for n in times.values() if n > 1", "for n in times.values() if n > 2",
     "continuations::summary_by_hand"),
    ("metrics/continuations.py", "if ks == set(range(len(ks)))", "if ks",
     "continuations::prompts_by_the_names_of_continue"),
    ("metrics/judge.py", "text.strip().lower()", "text.strip()",
     "continuations::nats_are_those_of_each_text_alone"),
    ("metrics/judge.py", "self.tokenizer.eos_token_id if begin is None else begin", "begin",
     "continuations::nats_are_those_of_each_text_alone"),
    ("metrics/judge.py", "attention_mask=mask", "attention_mask=1 - mask",
     "continuations::nats_are_those_of_each_text_alone"),
    ("metrics/asr.py", "logits[0].argmax(-1)", "logits[0].argmin(-1)", "continuations::greedy_decoding_by_hand"),
    ("cli/continuations.py", "row.extra.get(\"prompt_frames\") or 0", "0",
     "continuations::the_command_speaks_units_without_their_prompt"),
    ("steps/quality.py", "rows_from = (\"speech\", \"judge\")", "rows_from = (\"speech\",)",
     "continuations::the_key_of_the_step"),
    ("lm/gslm/ulm.py", "FIRST_POSITION = 2", "FIRST_POSITION = 1", "ulm::nll_is_that_of_fairseq"),
    ("lm/gslm/ulm.py", "math.log(10000) / (config.dim // 2 - 1)", "math.log(10000) / (config.dim // 2)",
     "ulm::nll_is_that_of_fairseq"),
    # --- vocoder
    ("vocoder/train.py", "MEL, FEATURES = 5.0, 2.0", "MEL, FEATURES = 4.0, 2.0",
     "vocoder_train::the_loss_is_the_sum_of_its_parts"),
    ("vocoder/train.py", "loss + (MEL - 1) * mel", "loss + MEL * mel",
     "vocoder_train::the_loss_is_the_sum_of_its_parts"),
    ("vocoder/train.py", "FEATURES * features", "features", "vocoder_train::the_loss_is_the_sum_of_its_parts"),
    ("vocoder/train.py", "decay_groups(model, 0.01), lr=config.lr, betas=(0.8, 0.99)",
     "decay_groups(model, 0.01), lr=config.lr, betas=(0.9, 0.99)",
     "vocoder_train::steps_are_those_of_adamw_written_out"),
    ("vocoder/train.py", "decay_groups(model, 0.01), lr=config.lr, betas=(0.8, 0.99)",
     "decay_groups(model, 0.01), lr=config.lr, betas=(0.8, 0.99), eps=1e-6",
     "vocoder_train::steps_are_those_of_adamw_written_out"),
    ("vocoder/train.py", "decay_groups(discriminators, 0.01), lr=config.lr, betas=(0.8, 0.99)",
     "decay_groups(discriminators, 0.01), lr=config.lr, betas=(0.8, 0.999)",
     "vocoder_train::steps_are_those_of_adamw_written_out"),
    ("vocoder/train.py", "clip=1.0", "clip=100.0", "vocoder_train::steps_are_those_of_adamw_written_out"),
    ("vocoder/train.py", "min(500, config.steps // 20)", "min(500, config.steps // 2)",
     "vocoder_train::steps_are_those_of_adamw_written_out"),
    ("vocoder/train.py", "durations[real].float().log()).square()", "durations[real].float().log()).abs()",
     "vocoder_train::losses_are_those_of_the_rows_by_hand"),
    ("vocoder/train.py", "(off + (octaves[voiced] - target).abs().sum())", "off",
     "vocoder_train::losses_are_those_of_the_rows_by_hand"),
    ("vocoder/train.py", "model.load_state_dict(training.average.weights)", "pass",
     "vocoder_train::the_average_forgets_in_a_thousand_steps"),
    ("vocoder/base.py", "units.deduplicated() if isinstance(row, Units) else units for", "units for",
     "stream::predicted_durations_are_those_of_the_whole"),
    ("vocoder/base.py", "return waveforms if batch else waveforms[0]",
     "return waveforms if len(waveforms) > 1 else waveforms[0]",
     "vocoder_contract::one_sequence_is_a_waveform_and_a_list_a_list"),
    ("vocoder/base.py", "frames = [units.frames() for units in spoken]", "frames = [units.units for units in spoken]",
     "vocoder_contract::durations_given_are_frames"),
    ("vocoder/discriminators.py", "GAIN = 10.0", "GAIN = 1.0",
     "vocoder_train::discriminators_hear_speech_at_a_gain_of_ten"),
    ("vocoder/discriminators.py", "(1 - r.float()).square().mean() + m", "r.float().square().mean() + m",
     "vocoder_train::losses_of_a_judgement_written_out"),
    ("vocoder/discriminators.py", "** -0.35", "** -0.5", "vocoder_train::a_spectrum_as_it_is_judged_written_out"),
    ("vocoder/discriminators.py", "distance / size.clamp(min=1e-5)", "distance",
     "vocoder_train::losses_of_a_judgement_written_out"),
    ("audio/mel.py", "SLANEY_FLOOR = 1e-5", "SLANEY_FLOOR = 1e-4", "vocoder::log_mel_of_silence_is_its_floor"),
    ("vocoder/losses.py", "(1024, 80), (512, 40)", "(1024, 80), (1024, 80)",
     "vocoder::the_loss_is_the_mean_over_five_scales"),
    ("audio/mel.py", "window // 4, window=hann", "window // 2, window=hann", "vocoder::log_mel_is_the_naive_one"),
    ("audio/mel.py", "triangles(bins, edges) * 2 / (edges[2:] - edges[:-2])", "triangles(bins, edges)",
     "vocoder::mel_filters_are_the_naive_ones"),
    ("vocoder/head.py", "torch.hann_window(n_fft)", "torch.hamming_window(n_fft)",
     "vocoder::istft_of_any_spectrum_is_torchs"),
    ("vocoder/head.py", "self.window.square().view(parts, hop)", "self.window.view(parts, hop)",
     "vocoder::istft_inverts_stft"),
    ("vocoder/head.py", "(self.n_fft - hop) // 2 + left * hop", "left * hop", "vocoder::istft_inverts_stft"),
    ("vocoder/excitation.py", "(self.sample_rate / 2 / hz).floor()", "(self.sample_rate / 4 / hz).floor()",
     "excitation::pulses_are_a_sum_of_harmonics"),
    ("vocoder/excitation.py", "torch.sqrt(2 / harmonics)", "torch.sqrt(1 / harmonics)",
     "excitation::pulses_are_a_sum_of_harmonics"),
    ("vocoder/excitation.py", "phase[:, None] + (hz", "0 * phase[:, None] + (hz",
     "excitation::pulses_are_a_sum_of_harmonics"),
    ("vocoder/excitation.py", "REST = 100.0", "REST = 150.0", "excitation::a_pause_runs_on_at_a_hundred_hertz"),
    ("vocoder/predictors.py", "BINS_PER_OCTAVE = 48", "BINS_PER_OCTAVE = 24", "excitation::f0_in_steps_by_number"),
    ("vocoder/predictors.py", "MIDDLE = 200.0", "MIDDLE = 100.0", "excitation::predicted_f0"),
    ("audio/f0.py", "JUMP * STEP / step, CHANGE", "JUMP, CHANGE",
     "f0::the_price_of_a_transition_is_for_ten_milliseconds"),
    ("audio/f0.py", "CHANGE * STEP / step", "CHANGE", "f0::the_price_of_a_transition_is_for_ten_milliseconds"),
    ("audio/f0.py", "JUMP = 0.35", "JUMP = 0.035", "f0::equals_the_naive_version"),
    ("audio/f0.py", "OCTAVE = 0.01", "OCTAVE = 0.03", "f0::equals_the_naive_version"),
    ("audio/f0.py", "VOICING = 0.45", "VOICING = 0.4", "f0::equals_the_naive_version"),
    ("audio/f0.py", "SILENCE = 0.03", "SILENCE = 0.1", "f0::equals_the_naive_version"),
    ("audio/f0.py", "device=at) + fine) * hop", "device=at) + 1) * hop", "f0::other_hops_equal_the_naive_version"),
    ("audio/f0.py", "1200 * np.log2", "100 * np.log2", "f0::measures"),
    ("vocoder/head.py", "math.log(10 if excited else n_fft / 4)", "math.log(100)",
     "vocoder::magnitudes_are_clipped_by_number"),
    ("vocoder/predictors.py", "DROPOUT = 0.5", "DROPOUT = 0.05", "vocoder::half_of_the_duration_predictor_drops_out"),
    ("vocoder/model.py", "predicted.exp().round().clamp(min=1)", "(predicted.exp() - 1).round().clamp(min=1)",
     "vocoder::predicted_durations"),
    ("vocoder/stream.py", "predicted[0, :, 0].exp().round()", "predicted[0, :, 0].exp().floor()",
     "stream::predicted_durations_are_those_of_the_whole"),
    ("vocoder/stream.py", "x[:, max(0, new) :]", "x[:, max(0, new + 1) :]", "stream::streamed_is_offline"),
    ("vocoder/stream.py", "self.frames += x.shape[1]", "self.frames += 0", "stream::streamed_is_offline"),
    ("vocoder/data.py", "SEQUENCE = 256", "SEQUENCE = 32", "vocoder_train::predictors_see_sequences_of_256"),
    ("vocoder/data.py", "max(1, length - size + 1)", "max(1, length - size)",
     "vocoder_train::crops_keep_units_and_audio_aligned"),
    ("vocoder/griffin_lim.py", "= 50, 60, 0.99", "= 50, 60, 0.0", "speech_quality::griffin_lim_finds_phases_that_fit"),
    ("vocoder/griffin_lim.py", "= 50, 60, 0.99", "= 50, 6, 0.99", "speech_quality::griffin_lim_finds_phases_that_fit"),
    ("metrics/mcd.py", "ORDER = 13", "ORDER = 12", "speech_quality::cepstra_equal_a_transform_of_scipy"),
    ("metrics/mcd.py", "2 / bands * basis", "1 / bands * basis", "speech_quality::cepstra_equal_a_transform_of_scipy"),
    ("metrics/mcd.py", "math.sqrt(2) * warped", "warped", "speech_quality::distortion_is_in_decibels"),
    ("vocoder/hifigan/generator.py", "SLOPE = 0.1", "SLOPE = 0.2", "hifigan::the_audio_is_fairseqs"),
    ("vocoder/stream.py", "start = max(0, stop - self.halo)", "start = max(0, stop - self.halo // 2)",
     "hifigan::streamed_is_the_whole"),
    ("vocoder/stream.py", "(0 if last else self.halo)", "(0 if last else self.halo // 2)",
     "hifigan::streamed_is_the_whole"),
    ("vocoder/hifigan/model.py", "    halo = 2  #", "    halo = 1  #",
     "hifigan::durations_depend_on_two_units_to_either_side"),
    ("units/encoders/export.py", '"do_stable_layer_norm": config.pre_ln', '"do_stable_layer_norm": False',
     "export::transformers_computes_the_same_at_every_layer"),
    ("units/encoders/export.py", '"normalize": config.normalisation != "none"', '"normalize": False',
     "export::a_fairseq_checkpoint_has_fairseqs_layout"),
    ("vocoder/hifigan/hub.py", 'vocoder.level = "peak"', 'vocoder.level = "raw"',
     "hifigan::the_audio_is_that_of_unit_hifigan"),
    ("vocoder/hifigan/generator.py", "alpha=1 / len(self.blocks)", "alpha=1", "hifigan::the_audio_is_fairseqs"),
    # --- benchmarks of the field
    ("benchmarks/pairs.py", "(good > bad) + 0.5 * (good == bad)", "(good > bad) + 1.0 * (good == bad)",
     "benchmarks::swuggy_is_the_reference_s"),
    ("benchmarks/pairs.py", "values if over == \"items\" else won, [own", "values if True else won, [own",
     "benchmarks::the_figure_by_voice_is_over_its_recordings"),
    ("benchmarks/zerospeech.py", "if 0 <= value < edge", "if 0 <= value <= edge",
     "benchmarks::bands_open_to_the_right"),
    ("benchmarks/zerospeech.py", "{name for _, name in BANDS[1:]}}", "{name for _, name in BANDS}}",
     "benchmarks::swuggy_is_the_reference_s benchmarks::figures_of_zerospeech2021_itself"),
    ("benchmarks/zerospeech.py", '(right["type"], right["subtype"], right["id"])',
     '(right["type"], right["id"])', "benchmarks::sblimp_is_the_reference_s"),
    ("benchmarks/zerospeech.py", 'return Pairs(pairs, "sum", notes, lone=lone)\n\n\ndef read_sblimp',
     'return Pairs(pairs, "mean", notes, lone=lone)\n\n\ndef read_sblimp',
     "benchmarks::units_go_by_path_or_stem_or_source"),
    ("benchmarks/trees.py", "right = number % 2 == 0", "right = number % 2 == 1",
     "benchmarks::storycloze_is_slamkit_s"),
    ("benchmarks/trees.py", "        members.sort()\n", "        members.sort(key=lambda m: str(m[0]))\n",
     "benchmarks::slamkit_s_trees"),
    ("benchmarks/trees.py", '(right := match[2] == "0")', '(right := match[2] == "1")',
     "benchmarks::salmon_is_the_original_s"),
    ("benchmarks/semantic.py", "_spearman(-human[None], distances[None])", "_spearman(human[None], distances[None])",
     "benchmarks::ssimi_is_higher_where_near_words_are_alike"),
    ("benchmarks/semantic.py", 'if kind != "synthetic" or voice == other', "if True",
     "benchmarks::ssimi_is_the_reference_s benchmarks::correlations_of_zerospeech2021_itself"),
    ("benchmarks/semantic.py", 'if not row["relatedness"].strip()}', 'if not row["similarity"].strip()}',
     "benchmarks::ssimi_is_the_reference_s benchmarks::correlations_of_zerospeech2021_itself"),
    ("benchmarks/semantic.py", "np.average(values, weights=counts)", "np.average(values)",
     "benchmarks::ssimi_is_the_reference_s"),
    ("benchmarks/phonetic.py", 'return given.frames, given.frame_rate, "angular"',
     'return given.frames, given.frame_rate, "euclidean"', "benchmarks::abx_is_the_metric_s"),
    ("benchmarks/layout.py", "if uses[other] == 1", "if uses[other]",
     "benchmarks::a_name_that_may_be_several_recordings_is_none"),
    ("benchmarks/scores.py", 'scores = {"mean": means, "sum": totals}', 'scores = {"mean": totals, "sum": means}',
     "benchmarks::a_model_is_ranked_by_the_sum_or_the_mean"),
    ("cli/benchmark.py", "if row.id in wanted", "if row.id",
     "benchmarks::the_command_encodes_once_and_prints_a_table"),
]
# fmt: on
MUTATIONS = [Mutation(*row) for row in _TABLE]


def problems(mutations: Sequence[Mutation]) -> list[str]:
    """What is wrong with the table itself, a line each: an old text that is not there exactly once, a test that is not
    there.
    """
    out = []
    for m in mutations:
        path = ROOT / "textless" / m.file
        count = path.read_text().count(m.old) if path.is_file() else 0
        if count != 1:
            out.append(f"{m}: the old text occurs {count} times in textless/{m.file}; it must occur once")
        if m.old == m.new:
            out.append(f"{m}: changes nothing")
        for test in m.ids() or [""]:
            file, _, function = test.partition("::")
            if not (ROOT / file).is_file() or f"def {function}(" not in (ROOT / file).read_text():
                out.append(f"{m}: there is no test {test}")
    return out


class Copy:
    """A copy of the tree in which mutations are tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ROOT.iterdir():
            if part.name in ("textless", "tests"):
                shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif not part.name.startswith("."):
                (folder / part.name).symlink_to(part)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # No .pyc: a mutation of the same length, made in the same second, would not be seen next to one.
        names = {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        options = {
            "cwd": self.folder,
            "env": os.environ | names,
            "capture_output": True,
            "text": True,
            "timeout": SECONDS,
        }
        return subprocess.run([sys.executable, *command], **options)  # type: ignore[call-overload]

    def test(self, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *dict.fromkeys(tests))

    def verdict(self, mutation: Mutation) -> str:
        """`killed`, `survived`, or what else came of it."""
        path = self.folder / "textless" / mutation.file
        text = path.read_text()
        path.write_text(text.replace(mutation.old, mutation.new))
        try:
            done = self.test(mutation.ids())
        except subprocess.TimeoutExpired:
            return "killed"
        finally:
            path.write_text(text)
        if done.returncode in (0, 1):  # all passed, or one failed
            return ("survived", "killed")[done.returncode]
        return f"broken: {(done.stdout + done.stderr).strip().splitlines()[-1]}"


def try_all(mutations: Sequence[Mutation], *, workers: int = 1) -> dict[Mutation, str]:
    """The verdict on each; prints them as they come.

    Raises SystemExit where the table is wrong or the tests fail without a mutation.
    """
    if wrong := problems(mutations):
        raise SystemExit("\n".join(wrong))
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Copy] = Queue()
        for n in range(workers):
            (place := Path(folder) / str(n)).mkdir()
            copies.put(Copy(place.resolve()))
        copy = copies.queue[0]
        origin = copy.run("-c", "import textless; print(textless.__file__)").stdout
        if not origin.startswith(str(copy.folder)):
            raise SystemExit(f"the copy in {copy.folder} imports {origin.strip()}")
        sound = copy.test([test for m in mutations for test in m.ids()])
        if sound.returncode:
            raise SystemExit(f"without any mutation:\n{sound.stdout}{sound.stderr}")

        def verdict(mutation: Mutation) -> str:
            copy = copies.get()
            try:
                found = copy.verdict(mutation)
            finally:
                copies.put(copy)
            print(f"{found:9} {mutation}", flush=True)
            return found

        with ThreadPoolExecutor(workers) as pool:
            return dict(zip(mutations, pool.map(verdict, mutations), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", metavar="WORD", help="only mutations with this word")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="so many at a time")
    parser.add_argument("--list", action="store_true", help="list them and run nothing")
    args = parser.parse_args()
    chosen = [m for m in MUTATIONS if args.k in f"{m} {m.tests}"]
    if args.list or not chosen:
        print("\n".join(f"{m}   [{m.tests}]" for m in chosen) or f"no mutation holds {args.k!r}")
        raise SystemExit(0 if chosen else 2)
    verdicts = try_all(chosen, workers=args.j)
    survivors = [m for m, v in verdicts.items() if v != "killed"]
    share = 1 - len(survivors) / len(verdicts)
    print(f"\n{len(verdicts) - len(survivors)} of {len(verdicts)} killed, {share:.1%}")
    for m in survivors:
        print(f"{verdicts[m]}: {m}   [{m.tests}]")
    raise SystemExit(share < LEAST)


if __name__ == "__main__":
    main()
