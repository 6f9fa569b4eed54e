"""Faults of high meaning, planted one at a time by ``mutants.py --planted``.

Each breaks a promise of the package or of the benchmarks in one place, and the test that is named
with it must notice. A place is a function or class and a piece of its syntax, so that neither line
breaks nor comments nor quotes matter. Most of them once passed all tests.
"""

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """In ``where`` of a module (``""``: anywhere in it) the code ``old`` stands exactly once and
    becomes ``new``; ``test_<a>.py::test_<b>`` sees it for ``test = "<a>.<b>"``. A module is one of
    the package, or a file like ``benchmarks/bench``.
    """

    what: str
    module: str
    where: str
    old: str
    new: str
    test: str

    @property
    def path(self) -> Path:
        """The file, from the repository's root."""
        return Path("" if "/" in self.module else "ddi", f"{self.module}.py")

    @property
    def node(self) -> str:
        """The test, as pytest names it inside ``tests/``."""
        file, _, name = self.test.partition(".")
        return f"test_{file}.py::test_{name}"

    def plant(self, source: str) -> str:
        """The module with the fault, or ``LookupError``."""
        tree = ast.parse(source)
        old, new = _syntax(self.old), _syntax(self.new)
        nodes = [node for node in ast.walk(_scope(tree, self.where)) if type(node) is type(old)]
        places = [node for node in nodes if ast.unparse(node) == ast.unparse(old)]
        if len(places) != 1:
            raise LookupError(
                f"{self.what}: {self.where or self.path} must hold it once, and holds it "
                f"{len(places)} times: {self.old}"
            )
        place = places[0]
        if isinstance(new, ast.stmt) and isinstance(place, ast.expr):  # a call that stands alone
            alone = (n for n in ast.walk(tree) if isinstance(n, ast.Expr) and n.value is place)
            place = next(alone)
        return ast.unparse(ast.fix_missing_locations(_Replace(place, new).visit(tree)))


def _syntax(code: str) -> ast.expr | ast.stmt:
    (node,) = ast.parse(code).body
    return node.value if isinstance(node, ast.Expr) else node


def _scope(tree: ast.AST, where: str) -> ast.AST:
    for name in filter(None, where.split(".")):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name]
        if len(found) != 1:
            raise LookupError(f"{where}: {name} is there {len(found)} times")
        tree = found[0]
    return tree


class _Replace(ast.NodeTransformer):
    def __init__(self, place: ast.AST, new: ast.AST) -> None:
        self.place, self.new = place, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.place else self.generic_visit(node)


F = Fault
# fmt: off
PLANTED = [
    # the set that perturbations are chosen from
    F("the l-infinity projection goes to twice the radius", "threat", "LInf.projection", "hi.clamp_(-self.eps, self.eps)", "hi.clamp_(-2 * self.eps, 2 * self.eps)", "threat.projection_satisfies_its_variational_inequality"),
    F("the l2 projection stops at the ball, before the box", "threat", "L2._onto_both", "0 if self.box is None else 64", "0", "threat.projection_satisfies_its_variational_inequality"),
    F("the l2 projection bisects the length itself, not its logarithm", "threat", "L2._onto_both", "low.sqrt() * high.sqrt()", "(low + high) / 2", "threat.projection_resolves_the_direction_at_every_length"),
    F("the box is forgotten after a random l2 start", "threat", "L2.sample", "(self.steepest(normal) * radius.view((-1,) + (1,) * (x.ndim - 1))).clamp(lo, hi)", "self.steepest(normal) * radius.view((-1,) + (1,) * (x.ndim - 1))", "threat.random_start_is_clipped_to_the_box"),
    F("the random l2 start has another law of the radius", "threat", "L2.sample", "uniform ** (1 / normal[0].numel())", "uniform", "threat.random_start_fills_the_ball"),
    F("the l1 projection stops at the ball, before the box", "threat", "L1._lengths", "torch.minimum((v - ends.gather(1, last) + missing).clamp_(min=0), room)", "(v - ends.gather(1, last) + missing).clamp_(min=0)", "threat.l1_projection_is_that_of_two_other_solvers"),
    F("the l1 projection clips only what the ball has cut", "threat", "L1._onto_both", "room.double().clamp_(max=self.eps)", "torch.full_like(room, self.eps).double()", "threat.l1_projection_is_that_of_two_other_solvers"),
    F("the l1 projection loses the digits of what is far away", "threat", "L1._lengths", "gaps.cumsum(1).neg_()", "v.clone()", "threat.l1_projection_meets_its_worst_inequality_at_every_scale"),
    F("the l1 projection rounds to nearest, out of the ball", "threat", "L1._onto_both", "torch.where(least > lengths, least * (1 - torch.finfo(d.dtype).eps), least)", "least", "threat.l1_projection_in_float32_is_that_of_float64_and_never_outside"),
    F("the l1 step is spent where the box lets nothing move", "threat", "L1.step", "torch.where(gradient > 0, hi, -lo)", "torch.full_like(gradient, size)", "threat.l1_step_is_the_vertex_that_a_linear_program_finds"),
    F("the l1 step knows the box around the clean image only", "attacks", "Ascent.run", "attack.step(gradient, x + delta, size)", "attack.step(gradient, x, size)", "attacks.pgd_reaches_the_linear_closed_form_in_l1"),
    F("the random l1 start is on the sphere", "threat", "L1.sample", "self.norm(waits) + last", "self.norm(waits)", "threat.l1_start_is_uniform_in_a_ball_of_three_dimensions"),
    F("the random l1 start has positive entries only", "threat", "L1.sample", "torch.copysign(waits, signs)", "waits", "threat.l1_start_is_uniform_in_a_ball_of_three_dimensions"),
    F("contains does not look at the box", "threat", "Threat.contains", "inside & (self.norm(delta) <= self.eps + atol)", "self.norm(delta) <= self.eps + atol", "threat.contains_tells_the_ball_and_the_box"),
    F("contains accepts twice the radius", "threat", "Threat.contains", "self.eps + atol", "2 * self.eps + atol", "threat.contains_tells_the_ball_and_the_box"),
    F("numbers may be NaN or infinite", "_checks", "finite", "not math.isfinite(number) or not inside", "number < low or number > high", "checks.numbers_are_finite"),
    F("a radius beyond the images' dtype passes", "threat", "Threat.check", "finite('eps', self.eps, 0.0, torch.finfo(x.dtype).max)", "pass", "attacks.lengths_beyond_the_dtype_of_the_images_are_refused_and_what_it_holds_is_not"),
    # attacks and losses
    F("the attack goes down", "attacks", "Ascent.run", "delta + attack.step(gradient, x + delta, size)", "delta - attack.step(gradient, x + delta, size)", "attacks.delta_is_in_the_set_detached_and_no_weaker_than_nothing"),
    F("no projection after a step", "attacks", "Ascent.run", "project((delta + attack.step(gradient, x + delta, size)).to(x.dtype))", "(delta + attack.step(gradient, x + delta, size)).to(x.dtype)", "attacks.delta_is_in_the_set_detached_and_no_weaker_than_nothing"),
    F("no random start", "attacks", "PGD._start", "self.threat.sample(x, generator) if self.random_start else torch.zeros_like(x)", "torch.zeros_like(x)", "attacks.fast_starts_at_random_and_takes_one_step"),
    F("the best iterate is the weakest", "attacks", "_better", "values > best", "values < best", "attacks.best_iterate_is_never_worse_than_the_last_or_the_start"),
    F("the last iterate is not considered for the best", "attacks", "Ascent.run", "_better(values_of(delta), delta, best, kept)[1]", "kept", "attacks.best_iterate_is_never_worse_than_the_last_or_the_start"),
    F("the schedule counts from 0", "attacks", "Ascent.run", "attack.schedule(step)", "attack.schedule(step - 1)", "attacks.schedule_scales_the_steps"),
    F("PGA takes unit steps", "attacks", "PGA.step", "return size * gradient", "return size * self.threat.steepest(gradient)", "attacks.pga_adds_alpha_times_the_gradient"),
    F("the bound of the pieces of a batch is ignored", "attacks", "PGD._attack", "-(-len(many) // (batch_size or len(many)))", "1", "attacks.restarts_are_single_calls_from_the_starts_of_one_draw"),
    F("losses below zero are no improvement on none", "attacks", "Ascent.run", "-torch.inf", "0.0", "attacks.best_iterate_is_never_worse_than_the_last_or_the_start"),
    F("a part of the batch draws its own random starts alone", "attacks", "PGD._attack", "self._start(every, generator).view(m, *x.shape)[:, only].flatten(0, 1)", "self._start(chosen(x, only).repeat(m, *[1] * (x.ndim - 1)), generator)", "attacks.restarts_are_single_calls_from_the_starts_of_one_draw"),
    F("the labels of restarts are in another order than the images", "attacks", "PGD._attack", "y.repeat(m, *[1] * (y.ndim - 1))", "y.repeat_interleave(m, 0)", "attacks.restarts_are_single_calls_from_the_starts_of_one_draw"),
    F("labels are not compared with the number of logits", "attacks", "Ascent._logits", "not self.checked and of_classes(self.loss)", "False", "attacks.impossible_batches_are_refused_and_the_model_is_untouched"),
    F("the attack's autocast is ignored", "attacks", "PGD._attack", "Precision.of(x.device, self.autocast)", "Precision.of(x.device)", "attacks.autocast_runs_the_model_in_bf16_and_nothing_else"),
    F("a step beyond the images' dtype passes", "attacks", "PGD._check", "finite('alpha', self.alpha, 0.0, torch.finfo(self.threat.check(x).dtype).max)", "self.threat.check(x)", "attacks.lengths_beyond_the_dtype_of_the_images_are_refused_and_what_it_holds_is_not"),
    F("a schedule may take a step beyond the images' dtype", "attacks", "Ascent.run", "finite('alpha', size, 0.0, torch.finfo(x.dtype).max)", "pass", "attacks.lengths_beyond_the_dtype_of_the_images_are_refused_and_what_it_holds_is_not"),
    F("an attack of another signature passes the door", "adversary", "attack_like", "signature.bind(*words, **takes)", "pass", "attacks.a_callable_of_another_signature_is_refused_at_every_door"),
    F("an attack class without a generator passes the door", "adversary", "attack_like", "4 if own else 3", "3", "attacks.a_callable_of_another_signature_is_refused_at_every_door"),
    F("an evaluation of another signature begins a run", "plan", "whole_plan", "attack_like('evaluation', evaluation)", "pass", "attacks.a_callable_of_another_signature_is_refused_at_every_door"),
    F("a user's attack class is called without protection", "adversary", "as_attack", "own if ours else _Guarded(own)", "own if isinstance(thing, Attack) else _Guarded(own)", "attacks.a_users_class_is_run_as_the_same_function_is"),
    F("only the first restart is looked at for images", "adversary", "_guarded", "any((_images(chosen(x.detach(), only), delta) for delta in deltas))", "_images(chosen(x.detach(), only), deltas[0])", "attacks.a_restart_that_returns_images_is_found_whichever_it_is"),
    F("a parent's restarts hide the call that a user wrote", "adversary", "_Guarded.restarts", "self._rank('__call__') < self._rank('restarts')", "False", "attacks.a_users_class_is_run_as_the_same_function_is"),
    F("objectives see the caller's own images", "losses", "", "model(images.clone())", "model(images)", "objectives.an_objective_of_a_network_that_normalises_in_place_is_that_of_one_that_does_not"),
    F("gradients in the images are not scaled in float16", "losses", "Scaled.through", "gradient * _along(powers[0], gradient)", "gradient", "float16.an_attack_is_as_strong_as_in_float32"),
    F("what is scaled in float16 is not divided again", "losses", "Scaled.through", "gradient / _along(powers[0], gradient)", "gradient", "float16.a_step_of_length_one_is_the_gradient_itself"),
    F("a scaled pass that overflows is the last", "losses", "Scaled.rise", "not bad.any()", "True", "float16.a_step_of_length_one_is_the_gradient_itself"),
    F("a pass after an overflow in float16 is of another function", "gradients", "Passes.gradient_of", "again()", "pass", "float16.a_compiled_network_whose_scaled_pass_overflows_moves_once"),
    F("weights in float16 behind other images are forgotten", "losses", "narrow", "torch.float16 in held | {images.dtype, precision.dtype if precision.low else None}", "torch.float16 in {images.dtype, precision.dtype if precision.low else None}", "float16.weights_in_float16_behind_images_in_float32_lose_nothing"),
    F("only the first image is compared", "coupling", "coupled", "(0, 1)", "(0,)", "product.statistics_by_hand_are_refused"),
    F("penalties that lose their gradients in float16 go through", "gradients", "Shift.at", "through.narrow", "False", "float16.penalties_in_float16"),
    F("a gradient is infinite in float16", "state", "assign_gradient", "parameter.dtype == torch.float16", "False", "float16.a_gradient_that_float16_cannot_hold_is_refused"),
    F("samples behind a lambda have a scale each", "losses", "Scaled.__init__", "not isinstance(model, nn.Module) or coupled(model, partial(precision.forward, model), x)", "isinstance(model, nn.Module) and coupled(model, partial(precision.forward, model), x)", "float16.samples_that_are_coupled_have_one_scale"),
    F("coupled samples have a scale each", "losses", "Scaled.through", "self.together", "False", "float16.samples_that_are_coupled_have_one_scale"),
    F("directions are not scaled in float16", "gradients", "Passes.scales", "(9, 1, -7)", "(0, 0, 0)", "float16.a_direction_is_that_of_float32"),
    F("a scaled direction that overflows is the last", "gradients", "Passes.scales", "(9, 1, -7)", "(9, 9, 9)", "float16.a_direction_is_that_of_float32"),
    F("the margin is over all classes", "losses", "margin_loss", "logits.masked_fill(true, -torch.inf)", "logits", "attacks.losses_by_hand"),
    F("the margin compares with 0", "losses", "margin_loss", "logits.masked_fill(true, -torch.inf)", "logits.masked_fill(true, 0.0)", "attacks.losses_by_hand"),
    # what a model carries
    F("training modes are not restored", "state", "frozen", "_back_to(modes)", "pass", "state.the_model_comes_back_exactly_as_it_was"),
    F("training modes are not restored after an exception", "state", "frozen", "_back_to(modes)", "_back_to(modes if __import__('sys').exc_info()[0] is None else [])", "product.shared_parameters_and_exceptions_leave_the_model_alone"),
    F("a module of two parents has the mode of the second", "state", "_back_to", "module.training = mode", "pass", "state.a_module_of_two_parents_has_its_own_mode_again"),
    F("requires_grad is not restored", "state", "frozen", "p.requires_grad_(requires)", "pass", "state.the_model_comes_back_exactly_as_it_was"),
    F("what eval() merges stays merged", "state", "_back_to", "module.train(mode)", "pass", "state.a_network_whose_eval_moves_weights_is_switched_back"),
    F("merging and unmerging leave a trace of rounding", "state", "frozen", "switches(model)", "False", "state.a_network_whose_eval_moves_weights_is_switched_back"),
    F("what no pass has gone through counts as still", "state", "frozen", "if passes:\n    moved.learn()", "moved.learn()", "state.what_passes_move_in_eval_mode_comes_back_every_time"),
    F("what has once not moved counts as still", "moved", "_still", "n >= ENOUGH", "n >= 1", "state.a_teacher_that_begins_as_a_copy_moves_once_a_step"),
    F("a frozen backbone is copied in every step", "moved", "Moved.learn", "times[self.training] + 1 if stays else 0", "0", "state.a_frozen_backbone_is_copied_once_and_never_written"),
    F("parameters that are not trained are not put back", "moved", "Moved.put_back", "isinstance(tensor, nn.Parameter) and _same(tensor, value)", "isinstance(tensor, nn.Parameter)", "state.what_passes_move_in_eval_mode_comes_back_every_time"),
    F("a codebook moves in every pass", "moved", "Moved.of", "p is None or (p.requires_grad and (not trained))", "p is None or not trained", "state.a_codebook_moves_once"),
    F("an attack adds to the caller's gradients", "state", "frozen", "p.grad = None", "pass", "state.gradients_that_the_caller_has_summed_up_are_not_touched"),
    F("a wrapper is taken for the compiled network in it", "state", "eager", "getattr(model, '_modules', {})", "{k: getattr(model, k) for k in ['_orig_mod'] if hasattr(model, k)}", "state.a_compiled_network_is_recognised"),
    F("samples that see each other go through", "samples", "check_samples", "coupled(model, run, x)", "False", "product.statistics_by_hand_are_refused"),
    F("samples are compared in every step", "coupling", "coupled", "_alone[id(model)] = model", "pass", "product.statistics_of_one_sample_are_not_refused_and_are_looked_for_once"),
    F("gradients are not restored", "state", "frozen", "p.grad = grad", "pass", "state.frozen_restores_what_is_done_to_it_inside"),
    F("buffers are not restored", "state", "frozen", "moved.put_back()", "pass", "state.frozen_restores_what_is_done_to_it_inside"),
    F("attacks run the model in training mode", "state", "frozen", "_to_eval(model)", "pass", "attacks.each_sample_is_attacked_for_itself"),
    F("the caller's autocast rounds the algebra too", "state", "Precision.algebra", "torch.autocast(self.device, enabled=False)", "torch.enable_grad()", "state.only_forward_passes_see_the_callers_autocast"),
    # simplices and quadratic problems
    F("the projection onto the simplex sorts upwards", "simplices", "_project", "-np.sort(-v, axis=-1)", "np.sort(v, axis=-1)", "solver.projection_satisfies_the_kkt_conditions"),
    F("the projection onto the simplex is off by one in the sort", "simplices", "_project", "rho - 1", "np.maximum(rho - 2, 0)", "solver.projection_satisfies_the_kkt_conditions"),
    F("the gap is against the largest entry", "simplices", "Simplices.gaps", "self.least(r)[:, self.group]", "-self.least(-r)[:, self.group]", "solver.every_method_is_optimal_to_its_tolerance"),
    F("the vertex is at the largest entry", "simplices", "Simplices.first", "self._rows(r).argmin(-1)", "self._rows(r).argmax(-1)", "solver.every_method_is_optimal_to_its_tolerance"),
    F("a constant in the losses is not taken away", "simplices", "Simplices.shift", "c + self.least(-c)[:, self.group]", "c", "solver.a_constant_in_the_losses_changes_nothing_however_large"),
    F("the linear term has the wrong sign", "quadratic", "Problem.residual", "times(self.G, a) - self.c", "times(self.G, a) + self.c", "solver.every_method_is_optimal_to_its_tolerance"),
    F("the matrix is not symmetrised", "quadratic", "problem_of", "(G + G.swapaxes(1, 2)) / 2", "G", "solver.the_matrix_is_symmetrised"),
    F("the tolerance does not grow with the losses", "quadratic", "problem_of", "abs(c).max(-1).clip(1.0, None)", "np.ones(len(G))", "solver.with_a_large_loss_the_gap_to_reach_is_larger"),
    F("indefinite matrices are accepted", "quadratic", "_floor", "(lowest < -n * (1e-10 if dtype == torch.float64 else 1e-5)).any()", "False", "solver.impossible_gram_matrices_are_refused"),
    F("blocked weights stay free", "quadratic", "_active_set", "free & ~blocked", "free", "solver.every_method_is_optimal_to_its_tolerance"),
    F("exact returns its last iterate, not its best", "quadratic", "_active_set", "np.where((gap < least)[:, None], a, kept)", "a", "solver.exact_returns_its_best_iterate"),
    F("exact has no proximal term", "quadratic", "_to_affine_minimiser", "1e-14 * simplices.n + 2 * problem.floor", "0 * problem.floor", "solver.degenerate_inputs_at_every_scale"),
    F("the accelerated method's step is too long", "quadratic", "_accelerated", "1 / np.linalg.eigvalsh(problem.G)[:, -1:].clip(1e-300, None)", "2.5 / np.linalg.eigvalsh(problem.G)[:, -1:].clip(1e-300, None)", "solver.every_method_is_optimal_to_its_tolerance"),
    F("the accelerated method has no momentum", "quadratic", "_accelerated", "k / (k + 3)", "0", "solver.accelerated_is_faster_than_plain_projected_gradient"),
    F("Frank-Wolfe takes no away steps", "quadratic", "_away_steps", "np.where(go_toward, toward, away)", "toward", "solver.every_method_is_optimal_to_its_tolerance"),
    F("exact is called converged a million times too early", "solver", "min_norm_product", "1e-10", "1e-4", "solver.exact_says_when_it_did_not_converge"),
    F("a tenth of the iterations by default", "solver", "min_norm_product", "10_000", "1_000", "solver.ten_thousand_iterations_are_taken_by_default"),
    F("the matrix's scale is not undone", "solver", "min_norm_product", "squared * scale", "squared", "solver.every_method_is_optimal_to_its_tolerance"),
    F("the bundle step has no length", "solver", "bundle", "a_vector('values', values, gram).double() / t", "a_vector('values', values, gram).double()", "solver.bundle_solves_the_primal_step"),
    # Danskin's quantities
    F("the directional derivative is a minimum", "danskin", "_slope", "_largest(gradients.double() @ direction.double(), groups).sum()", "-_largest(-gradients.double() @ direction.double(), groups).sum()", "danskin.directional_derivative_is_the_one_sided_quotient_of_a_maximum"),
    F("the steepest descent direction ascends", "danskin", "steepest_descent", "-point / norm", "point / norm", "danskin.steepest_descent_beats_every_direction_of_the_circle"),
    F("the slope is without its scale", "danskin", "steepest_descent", "_slope(unit, direction, groups) * power.double()", "_slope(unit, direction, groups)", "danskin.scale_changes_the_slope_and_nothing_else"),
    F("the slope is promised, not measured", "danskin", "steepest_descent", "_slope(unit, direction, groups) * power.double()", "-norm * power.double()", "danskin.the_slope_is_measured_along_the_returned_direction"),
    F("the slope is that of gradients rounded once more", "danskin", "steepest_descent", "largest / (2 * torch.frexp(largest).mantissa)", "largest", "danskin.the_slope_of_nearly_opposite_gradients_is_theirs"),
    F("float16 gradients are made small in float16", "danskin", "steepest_descent", "gradients.to(torch.promote_types(gradients.dtype, torch.float32))", "gradients", "danskin.small_entries_of_float16_gradients_keep_their_digits"),
    F("stationary ten thousand times too early", "danskin", "steepest_descent", "1e-7", "1e-3", "danskin.stationary_is_a_distance_of_1e_7_of_the_longest"),
    F("the Gram matrix is accumulated in float32", "danskin", "products", "piece.double()", "piece", "danskin.gram_matrix_is_accumulated_in_float64_whatever_the_block"),
    F("the certificate is without the direction's length", "danskin", "certify", "direction.double().norm().cpu()", "1.0", "danskin.certificate_bounds_the_true_slope_of_a_continuum"),
    F("the certificate's slack counts once, not once a group", "danskin", "_each", "torch.tensor(_checks.non_negative(name, number), dtype=torch.float64).expand(count)", "torch.tensor(_checks.non_negative(name, number), dtype=torch.float64).expand(1)", "danskin.the_slack_counts_once_a_group"),
    F("a bound of 0 proves descent", "danskin", "certify", "bound < 0", "bound <= 0", "danskin.certificate_needs_a_strict_inequality"),
    F("the certificate rounds the slope to the dtype of the gradients", "danskin", "certify", "_slope(gradients, direction, groups).cpu()", "directional_derivative(gradients, direction, groups).double().cpu()", "danskin.what_is_false_by_less_than_a_digit_of_the_dtype_is_not_proved"),
    F("a quotient's length is 1e-6 in every dtype", "danskin", "_length", "max(1e-06, torch.finfo(theta.dtype).eps ** 0.5)", "1e-06", "danskin.quotients_have_a_length_that_their_dtype_can_bear"),
    F("the one-sided quotient is two-sided", "danskin", "one_sided", "_values(phi, theta, direction, t, 0.0)", "_values(phi, theta, direction, t / 2, -t / 2)", "danskin.quotients_at_a_kink"),
    # the product
    F("per-sample gradients are not divided by k", "product", "product_rows", "through.group_gradients(x, d, y, k, row)", "through.group_gradients(x, d, y, 1, row)", "product.gram_method_is_brute_force_over_all_mixes"),
    F("weights of samples and perturbations are swapped", "product", "product_point", "torch.arange(rows.shape[1]).repeat(len(rows))", "torch.arange(rows.shape[1]).repeat_interleave(len(rows))", "product.gram_method_is_brute_force_over_all_mixes"),
    F("matrix-free goes to the largest slope", "product", "frank_wolfe", "slopes.argmin(0)", "slopes.argmax(0)", "product.matrix_free_starts_from_the_first_restart_and_only_improves"),
    F("matrix-free sets the vertex's weight instead of adding to it", "product", "frank_wolfe", "weights[pick, sample] += step", "weights[pick, sample] = step", "product.what_the_line_search_proves_is_true"),
    F("the tolerance of matrix-free is absolute", "product", "frank_wolfe", "tol * length", "tol", "product.the_tolerance_of_matrix_free_is_relative"),
    F("the line search proves too much", "product", "frank_wolfe", "2 * gap - 2 * step * gap + step ** 2 * squared", "gap - 2 * step * gap + step ** 2 * squared", "product.what_the_line_search_proves_is_true"),
    F("the losses are those of the first perturbation", "product", "product_rows", "gather(torch.stack(losses), 1)", "gather(torch.stack(losses)[:1].expand(len(losses), -1), 1)", "product.losses_come_along"),
    F("gradients lie in another order in memory than their weights", "state", "assign_gradient", "torch.empty_like(parameter).copy_(piece.view_as(parameter))", "piece.view_as(parameter).clone()", "descent.a_gradient_lies_in_memory_as_its_parameter_does"),
    # rules
    F("min takes the longest gradient", "combine", "shortest", "problem.gram.diagonal().argmin()", "problem.gram.diagonal().argmax()", "descent.mean_and_min_by_hand"),
    F("max takes the weakest perturbation", "descent", "Rule._perturb", "losses.argmax(0)", "losses.argmin(0)", "descent.max_takes_the_strongest_of_each_sample"),
    F("the bundle step is without the losses", "combine", "bundle_step", "problem.values", "0 * problem.values", "descent.bundle_tends_to_max_and_to_ddi"),
    F("ddi is not normalised", "descent", "Rule.normalized", "('ddi', 'comb', 'product')", "('comb', 'product')", "descent.defaults"),
    F("comb's coin is not fair", "descent", "Rule._perturb", "0.5", "0.25", "descent.the_coin_of_comb_is_fair"),
    F("comb counts its mixes as attacks", "descent", "Rule.attacks", "{'single': 1, 'comb': 2}", "{'single': 1}", "experiment.passes_counted_are_backward_passes_made"),
    F("statistics are moved by every column", "gradients", "columns", "if j:\n    again()", "pass", "descent.what_a_training_pass_moves_moves_once"),
    F("the product moves the statistics by clean images", "descent", "Rule.__call__", "move(through, x, deltas[0], y)", "move(through, x, 0 * deltas[0], y)", "descent.what_a_training_pass_moves_moves_once"),
    F("weight decay is not in the gradient", "gradients", "Shift.at", "self.weight_decay * theta", "0 * theta", "descent.weight_decay_inside_every_column"),
    F("weight decay of the product counts once a sample", "descent", "Rule._combined", "moved[0] / count", "moved[0]", "descent.weight_decay_of_the_product_counts_once"),
    F("the loss of weight decay is without its half", "gradients", "Shift.at", "self.weight_decay / 2", "self.weight_decay", "descent.weight_decay_inside_every_column"),
    F("the product's loss is a sum over the samples", "descent", "Rule._groups", "losses.double() / k", "losses.double()", "descent.diagnostics_by_hand"),
    # a maximum over the weights
    F("SAM goes down to where the loss is least", "sharpness", "SAM.__call__", "self._ascent(here.gradient)", "-self._ascent(here.gradient)", "sharpness.sam_is_the_rule_at_the_weights_that_one_ascent_step_reaches"),
    F("SAM's perturbation has the gradient's length", "sharpness", "SAM._ascent", "self.rho * (gradient / norm)", "self.rho * gradient", "sharpness.sam_is_the_rule_at_the_weights_that_one_ascent_step_reaches"),
    F("the second pass of SAM has another mask and other starts", "sharpness", "SAM.__call__", "again()", "pass", "sharpness.without_radius_sam_is_the_rule_and_draws_as_it_does"),
    F("both passes of SAM draw from the attack's generator", "sharpness", "SAM.__call__", "once(_checks.instance('model', model, nn.Module), generator)", "once(model)", "sharpness.without_radius_sam_is_the_rule_and_draws_as_it_does"),
    F("weights stay perturbed after an exception", "state", "displaced", "p.data.copy_(value)", "p.data.copy_(value if __import__('sys').exc_info()[0] is None else p.data)", "sharpness.weights_are_back_bit_for_bit_also_after_an_exception"),
    F("weights are put back by subtracting", "state", "displaced", "p.detach().clone()", "(p.detach() + 1) - 1", "sharpness.weights_are_back_bit_for_bit_also_after_an_exception"),
    F("SAMPa takes its perturbed gradient on the new batch", "sharpness", "SAMPa.__call__", "rule(model, images, labels, attack, generator)", "rule(model, x, y, attack, generator)", "sharpness.three_steps_of_sampa_by_hand"),
    F("SAMPa's auxiliary point is where it was", "sharpness", "SAMPa.__call__", "-self.t * gradient", "0 * gradient", "sharpness.three_steps_of_sampa_by_hand"),
    F("lam and 1 - lam are swapped", "sharpness", "SAMPa.__call__", "(1 - lam) * there.gradient + lam * ahead.gradient", "lam * there.gradient + (1 - lam) * ahead.gradient", "sharpness.three_steps_of_sampa_by_hand"),
    F("SAMPa remembers the perturbed gradient", "sharpness", "SAMPa.__call__", "(x.detach().clone(), y.clone(), ahead.gradient)", "(x.detach().clone(), y.clone(), there.gradient)", "sharpness.three_steps_of_sampa_by_hand"),
    F("what SAMPa remembers is not in the checkpoint", "trainer", "_Training.state_dict", "[memory.state_dict() for memory in memories(self.plan)]", "[]", "sharpness.a_run_with_sampa_that_is_interrupted_is_the_uninterrupted_one"),
    F("a run begins with what the run before has left", "plan", "whole_plan", "replace(phase, rule=fresh(phase.rule))", "phase", "sharpness.a_run_begins_with_an_empty_memory_and_counts_its_passes"),
    F("SAMPa uses the memory of another model", "sharpness", "SAMPa.__call__", "self._memory.clear()", "pass", "sharpness.another_model_begins_without_the_memory_of_the_first"),
    F("a copied SAMPa keeps the first model's parameters, and forgets with the copied one", "sharpness", "_Owner.__getstate__", "{'shapes': self.shapes, 'objects': ()}", "vars(self)", "sharpness.a_copy_of_a_model_and_its_rule_goes_on_as_they_do"),
    F("a copied SAMPa takes any model for its own", "sharpness", "_Owner.becomes", "self.shapes in ((), shapes)", "True", "sharpness.a_copy_of_a_model_and_its_rule_goes_on_as_they_do"),
    F("a loaded memory is of the model before", "sharpness", "SAMPa.load_state_dict", "self._owner.leave()", "pass", "sharpness.a_loaded_memory_is_of_whatever_model_comes_next"),
    F("an attack rounds what it has projected", "attacks", "Ascent.run", "project((delta + attack.step(gradient, x + delta, size)).to(x.dtype))", "project(delta + attack.step(gradient, x + delta, size)).to(x.dtype)", "attacks.l2_perturbations_in_half_precision_are_in_the_ball"),
    F("the l2 projection is rounded out of the ball", "threat", "L2._onto_both", "torch.where(near.abs() > exact.abs(), less, near)", "near", "threat.the_l2_projection_stays_in_the_ball_in_half_precision"),
    F("an epoch's SAMPa has lost its memory", "sharpness", "SAM.around", "copy.copy(self)", "replace(self)", "sharpness.an_epoch_s_rule_has_its_m_and_length_and_shares_the_memory"),
    F("the second call of a step joins a penalty's history", "sharpness", "_OneWeight.weigh", "self.weight_of_step is None", "True", "objectives.a_step_of_two_calls_is_one_entry_of_history_and_has_one_weight"),
    F("SAM counts its passes as its rule's", "sharpness", "SAM.passes", "2 * self.rule.passes(steps)", "self.rule.passes(steps)", "sharpness.passes_counted_are_passes_made_from_the_first_call_on"),
    # evaluation
    F("accuracies in training mode, and statistics moved", "evaluate", "_correct", "frozen(model, passes=True)", "torch.no_grad()", "evaluate.accuracies_are_those_of_eval_mode_whatever_the_batch_size"),
    F("a fallen image may stand up again", "evaluate", "standing", "stands[left] &= _correct(model, adversarial, y[left], size)", "stands[left] = _correct(model, adversarial, y[left], size)", "evaluate.an_image_that_has_fallen_does_not_stand_up_again"),
    F("a compiled network meets batches of all sizes", "evaluate", "standing", "compiled and stands[batch].any()", "False", "evaluate.only_a_compiled_network_meets_batches_of_one_size"),
    F("the standard error is without its root", "evaluate", "Accuracy.standard_error", "math.sqrt(self.value * (1 - self.value) / self.n)", "self.value * (1 - self.value) / self.n", "evaluate.clean_accuracy_counts"),
    F("the first sign of masking is never given", "evaluate", "masking_signs", "once.value < base.value - margin", "False", "evaluate.a_step_that_is_stronger_than_many_is_a_sign"),
    F("signs of masking need no margin", "evaluate", "masking_signs", "2 * max(base.standard_error, 1 / len(x))", "0.0", "evaluate.signs_need_a_margin_of_two_standard_errors"),
    F("AutoAttack ignores the norm", "evaluate", "autoattack_accuracy", "AutoAttack(in_float32, norm=norm, eps=eps, seed=seed, device=x.device)", "AutoAttack(in_float32, norm='Linf', eps=eps, seed=seed, device=x.device)", "evaluate.autoattack_hands_the_suite_what_it_is_given"),
    # data and networks
    F("mirror images are not mirrored", "data", "crop_and_flip", "across.flip(0)", "across", "data.augmentation_is_a_crop_of_the_padded_image_perhaps_mirrored"),
    F("one image in five is mirrored instead of half", "data", "crop_and_flip", "0.5", "0.2", "data.half_of_the_images_are_mirrored_and_crops_have_four_pixels_by_default"),
    F("crops have two pixels of padding at most", "data", "crop_and_flip", "integer('padding', padding, 0)", "min(2, integer('padding', padding, 0))", "data.half_of_the_images_are_mirrored_and_crops_have_four_pixels_by_default"),
    F("the last place of a crop is never taken", "data", "crop_and_flip", "2 * padding + 1", "max(1, 2 * padding)", "data.half_of_the_images_are_mirrored_and_crops_have_four_pixels_by_default"),
    F("the digits are split without the shuffle", "data", "digits", "torch.randperm(len(x), generator=torch.Generator().manual_seed(0))", "torch.arange(len(x))", "data.the_split_of_the_digits_is_pinned"),
    F("held-out images stay in the training set", "data", "Dataset.hold_out", "order[count:]", "order", "data.held_out_images_are_a_partition_of_the_training_set"),
    F("a pair keeps the old labels", "data", "Dataset.pair", "(y[keep] == one).long()", "y[keep]", "data.pair_keeps_two_classes"),
    F("the hash of the data forgets the training labels", "data", "Dataset.sha256", "(self.x_train.float(), self.y_train, self.x_test.float(), self.y_test)", "(self.x_train.float(), self.x_test.float(), self.y_test)", "data.the_hash_is_of_shapes_and_bytes"),
    F("rows and columns of an image are swapped", "data", "_images", "torch.tensor(x).permute(0, 3, 1, 2)", "torch.tensor(x).permute(0, 3, 2, 1)", "data.cifar10_reads_an_npz_from_a_folder_or_by_name"),
    F("a block has no shortcut", "models", "BasicBlock.forward", "self.residual(x) + self.shortcut(x)", "self.residual(x)", "models.a_block_is_residual_plus_shortcut_and_then_the_activation"),
    F("a block has no last activation", "models", "BasicBlock.forward", "self.activation(self.residual(x) + self.shortcut(x))", "self.residual(x) + self.shortcut(x)", "models.a_block_is_residual_plus_shortcut_and_then_the_activation"),
    F("GroupNorm has one group instead of up to 8", "models", "norm_layer", "math.gcd(8, channels)", "1", "models.group_normalisation_has_eight_groups_or_as_many_as_divide"),
    F("the third convolution of SmallNet has no stride", "models", "SmallNet", "((16, 2), (32, 2), (64, 2), (64, 1))", "((16, 2), (32, 2), (64, 1), (64, 1))", "models.strides_of_the_small_network"),
    # objectives, penalties, BETA
    F("TRADES attacks cross-entropy's clean part too", "objectives", "TRADES.inner", "natural + self.beta * divergence(clean, model(x + delta))", "cross_entropy(model(x + delta), y) + self.beta * divergence(clean, model(x + delta))", "objectives.an_objective_is_its_formula_and_so_are_its_gradients"),
    F("the clean logits of TRADES have no gradient", "objectives", "TRADES.inner", "divergence(clean, model(x + delta))", "divergence(clean.detach(), model(x + delta))", "objectives.an_objective_is_its_formula_and_so_are_its_gradients"),
    F("the divergence is the other way round", "objectives", "divergence", "p.exp() * (p - q)", "q.exp() * (q - p)", "objectives.an_objective_is_its_formula_and_so_are_its_gradients"),
    F("MART's doubt is that at the perturbed image", "objectives", "MART.inner", "boosted(moved, y) + self.beta * doubt * divergence(clean, moved)", "boosted(moved, y) - self.beta * torch.expm1(-cross_entropy(moved, y)) * divergence(clean, moved)", "objectives.an_objective_is_its_formula_and_so_are_its_gradients"),
    F("the clean logits are computed in every step of an attack", "losses", "", "return lambda delta: _one_each(values_of(delta), len(x))", "return lambda delta: _one_each(loss.inner(model, x, y)(delta), len(x))", "objectives.clean_logits_are_computed_once_an_attack"),
    F("BETA keeps the weakest of its rivals", "beta", "BETA._ascend", "torch.cat(margins).view(rivals.shape).argmax(0)", "torch.cat(margins).view(rivals.shape).argmin(0)", "objectives.beta_is_the_best_of_the_targeted_attacks"),
    F("BETA leaves a rival out", "beta", "BETA._ascend", "torch.arange(1, classes, device=y.device)", "torch.arange(1, classes, device=y.device).clamp_max(classes - 2)", "objectives.beta_is_the_best_of_the_targeted_attacks"),
    F("a rule counts an objective as one pass", "descent", "Rule.passes", "self.loss.passes if isinstance(self.loss, Objective) else 1", "1", "objectives.passes_of_objectives_and_penalties_are_counted"),
    F("a penalty counts once a group of the product", "descent", "Rule._combined", "moved[1] / count", "moved[1]", "objectives.a_penalty_shifts_every_column_by_its_gradient"),
    F("matrix-free forgets the shift", "descent", "Rule._matrix_free", "frank_wolfe(through, x, y, deltas, 1e-06, most, measure_gap=False, shift=row)", "frank_wolfe(through, x, y, deltas, 1e-06, most, measure_gap=False)", "objectives.a_penalty_shifts_every_column_by_its_gradient"),
    F("a penalty has another dropout mask than the columns", "gradients", "columns", "if shift.penalty is not None:\n    again()", "pass", "objectives.all_points_of_a_penalty_have_the_mask_of_the_columns"),
    F("every point of a penalty has a dropout mask of its own", "gradients", "Shift.at", "again()", "pass", "objectives.all_points_of_a_penalty_have_the_mask_of_the_columns"),
    F("ELLE-A's weight is kept where nothing jumps", "objectives", "AdaptiveELLE.weigh", "self.decay * s['weight']", "s['weight']", "objectives.the_adaptive_weight_jumps_and_fades"),
    F("the state of a penalty is not in the checkpoint", "trainer", "_Training.load_state_dict", "memory.load_state_dict(held)", "pass", "objectives.a_run_with_the_adaptive_weight_goes_on_bit_for_bit"),
    F("a penalty keeps its state from run to run", "sharpness", "_fresh", "rule.penalty.fresh()", "rule.penalty", "objectives.the_same_rule_begins_every_run_afresh"),
    # training
    F("the learning rate never falls", "plan", "Setting.lr_at", "self.reached(share, epoch)", "False", "trainer.learning_rate_schedule"),
    F("m never falls", "plan", "Setting.m_at", "(self.m_end - m) * epoch / max(1, self.epochs - 1)", "0", "experiment.m_falls_linearly_and_passes_are_counted"),
    F("the second phase never begins", "plan", "phase_at", "max(begun, key=lambda phase: phase.start)", "min(begun, key=lambda phase: phase.start)", "trainer.shares_of_the_epochs_fall_in_their_epoch_exactly"),
    F("phases act in the order in which they are given", "plan", "phase_at", "max(begun, key=lambda phase: phase.start)", "begun[-1]", "trainer.shares_of_the_epochs_fall_in_their_epoch_exactly"),
    F("a phase that starts at 0 is ignored", "plan", "joined", "[phase for phase in phases if phase.start == 0] or [Phase(0.0, rule, attack)]", "[Phase(0.0, rule, attack)]", "trainer.a_phase_that_starts_at_0_is_the_first_and_is_recorded_as_such"),
    F("a phase that never begins is accepted", "plan", "_check_starts", "first[-1] >= setting.epochs", "False", "trainer.a_phase_without_an_epoch_is_refused_before_anything_is_made"),
    F("a copied record counts as a seed", "plots", "by_arm", "other.seed == record.seed is not None", "other.name == record.name", "plots.a_copied_record_is_no_seed"),
    F("two records without a seed are one seed", "plots", "by_arm", "other.seed == record.seed is not None", "other.seed == record.seed", "plots.an_arm_is_a_name_without_its_seed_and_an_unknown_seed_is_none_twice"),
    F("what stands behind the seed tells no arms apart", "record", "Record.arm", "'\\\\2'", "''", "plots.an_arm_is_a_name_without_its_seed_and_an_unknown_seed_is_none_twice"),
    F("the rows of a record are in the order of the file", "record", "_metrics", "'epoch' in columns", "False", "record.rows_come_by_epoch_in_whatever_order_a_table_has_them"),
    F("phases are recorded in the order in which they are given", "plan", "config_of", "sorted(later, key=lambda phase: phase.start)", "later", "trainer.phases_may_come_in_any_order_and_bundles_length_follows_the_rate"),
    F("the default evaluation forgets norm and box", "plan", "default_evaluation", "PGD(attack.eps, attack.eps / 4, 20, norm=attack.norm, box=attack.box)", "PGD(attack.eps, attack.eps / 4, 20)", "trainer.the_default_evaluation_is_in_the_set_of_the_attack"),
    F("augmentation is ignored", "trainer", "_Training.one_step", "self.setting.augment", "False", "trainer.augmentation_reaches_the_attack_from_the_setting_s_generator"),
    F("batches and attacks are drawn from one generator", "trainer", "_Training.one_step", "rule(self.model.train(), images, labels, attack, self.attacks)", "rule(self.model.train(), images, labels, attack, self.batches)", "trainer.single_is_sgd_on_pgd_examples"),
    F("an infinite direction is taken", "trainer", "_Training.one_step", "not (math.isfinite(step.loss) and torch.isfinite(step.gradient).all())", "False", "trainer.a_step_that_is_not_finite_is_not_taken"),
    F("the length of the bundle step does not follow the learning rate", "sharpness", "_of_epoch", "rule.name == 'bundle'", "False", "trainer.phases_may_come_in_any_order_and_bundles_length_follows_the_rate"),
    F("columns of a record are sums instead of means", "trainer", "_Training.evaluate", "at.sums.get(key, math.nan) / self.steps", "at.sums.get(key, math.nan)", "trainer.every_column_of_a_record_is_what_it_says"),
    F("passes are those of the last step", "trainer", "_Training.one_step", "at.passes += rule.passes(taken) if taken else math.nan", "at.passes = rule.passes(taken) if taken else math.nan", "experiment.m_falls_linearly_and_passes_are_counted"),
    F("seconds of training accumulate twice", "trainer", "_Training.epoch_steps", "time.perf_counter() - self.at.trained", "time.perf_counter() - 2 * self.at.trained", "trainer.seconds_are_of_training_and_grow_by_what_an_epoch_takes"),
    F("the best epoch is the last", "trainer", "_Training.evaluate", "robust > at.best", "True", "experiment.best_and_last_epoch_are_kept_apart"),
    F("running statistics are not averaged in training", "trainer", "_Training.one_step", "average_buffers(self.model)", "pass", "trainer.the_running_statistics_are_averaged_after_every_step"),
    F("an interrupted run begins again", "trainer", "train", "sent(on_first(training.files.load))", "None", "trainer.an_interrupted_run_goes_on_and_is_the_uninterrupted_one"),
    F("an interrupted run begins again, killed", "checkpoint", "Checkpoints.load", "self._check(path, found)", "return None", "trainer.kill_9_at_twenty_random_moments"),
    F("the weights are not restored", "trainer", "_Training.load_state_dict", "eager(self.model).load_state_dict(state['model'])", "pass", "trainer.an_interrupted_run_goes_on_and_is_the_uninterrupted_one"),
    F("the optimiser is not restored", "trainer", "_Training.load_state_dict", "self.optimiser.load_state_dict(state['optimiser'])", "pass", "trainer.an_interrupted_run_goes_on_and_is_the_uninterrupted_one"),
    F("the attacks' generator is not restored", "trainer", "_Training.load_state_dict", "self.attacks.set_state(state['attacks'])", "pass", "trainer.an_interrupted_run_goes_on_and_is_the_uninterrupted_one"),
    F("Python's and NumPy's generators are not in the checkpoint", "checkpoint", "set_unsaved", "_set_generators(state)", "pass", "trainer.foreign_generators_and_unsaved_buffers_are_of_the_run_and_in_its_checkpoint"),
    F("validation draws numbers of the run", "trainer", "_Training.evaluate", "own_randomness(self.device, 0)", "nullcontext()", "trainer.the_numbers_that_validation_draws_are_none_of_the_training_run"),
    F("a state_dict must take arguments", "checkpoint", "_buffers", "model.state_dict()", "model.state_dict(keep_vars=True)", "trainer.a_state_dict_without_arguments_is_enough_for_a_checkpoint"),
    F("non-persistent buffers are not restored", "checkpoint", "set_unsaved", "buffer.data.copy_(state['buffers'][name])", "pass", "trainer.foreign_generators_and_unsaved_buffers_are_of_the_run_and_in_its_checkpoint"),
    F("the network's own random numbers are not restored", "trainer", "_Training.load_state_dict", "torch.random.set_rng_state(state['torch'])", "pass", "trainer.an_interrupted_run_goes_on_and_is_the_uninterrupted_one"),
    F("the dtype of the data is not recorded", "trainer", "train", "provenance(data, data.x_train.device, data.x_train.dtype)", "provenance(data, data.x_train.device)", "trainer.the_dtype_is_recorded"),
    F("the network is no part of what decides a run", "trainer", "train", "network_hash(model)", "''", "trainer.another_run_is_told_apart_and_nothing_of_the_first_is_touched"),
    # files of a run
    F("the data are no part of what decides a run", "record", "", "('data_sha256', 'device_type', 'dtype', 'network', 'constants', 'frozen')", "('device_type', 'dtype', 'network', 'constants', 'frozen')", "trainer.another_run_is_told_apart_and_nothing_of_the_first_is_touched"),
    F("a checkpoint of another run is used", "checkpoint", "Checkpoints._check", "self.run is not None and (words := differences(run, self.run))", "False", "trainer.another_run_is_told_apart_and_nothing_of_the_first_is_touched"),
    F("the checkpoint before is not kept", "checkpoint", "Checkpoints.save", "os.replace(self.newest, self.before)", "pass", "trainer.of_a_damaged_checkpoint_the_one_before_is_used_and_kept"),
    F("checkpoints may run code when they are read", "checkpoint", "load_weights", "torch.load(content, weights_only=True, map_location='cpu')", "torch.load(content, weights_only=False, map_location='cpu')", "trainer.a_checkpoint_that_runs_code_is_not_unpickled"),
    F("files are written in place", "checkpoint", "write_atomically", "path.with_name(path.name + '.tmp')", "path", "record.a_failed_write_leaves_the_old_file"),
    F("a run that failed is marked complete", "record", "RunWriter.__exit__", "self._finish(kind is None)", "self._finish(True)", "record.a_run_that_dies_leaves_an_incomplete_record"),
    F("a row with as many other columns passes", "record", "RunWriter.log", "row.keys() != self.rows[0].keys()", "len(row) != len(self.rows[0])", "record.records_refuse_changing_columns_and_missing_folders"),
    F("the dtype of the provenance is always float32", "record", "provenance", "str(dtype).removeprefix('torch.')", "'float32'", "record.the_dtype_and_the_kind_of_device_are_recorded"),
    F("the best row is the worst", "record", "Record.row", "self.metrics['robust'].argmax()", "self.metrics['robust'].argmin()", "experiment.best_and_last_epoch_are_kept_apart"),
    F("a column that a table lacks is a KeyError", "record", "_metrics", "_Columns(columns, path)", "columns", "record.a_table_is_read_with_a_mark_and_a_column_that_it_lacks_is_named"),
    F("a number that a row lacks is a KeyError", "record", "Record.row", "_Columns(row, getattr(self.metrics, 'path', self.name))", "row", "record.a_table_is_read_with_a_mark_and_a_column_that_it_lacks_is_named"),
    # experiments and the command line
    F("an arm of another kind is laid over the base", "experiment", "_merge", "{k: v for k, v in old.items() if k in SET} | value if other else old | value", "old | value", "experiment.tables_are_laid_over_the_base_and_replaced_by_another_kind"),
    F("norm and box are lost when an arm names another attack", "experiment", "_merge", "{k: v for k, v in old.items() if k in SET} | value", "value", "experiment.norm_and_box_stay_when_an_arm_names_another_attack"),
    F("overrides are dropped", "experiment", "read_experiment", "[*point, *changes]", "[*point]", "experiment.overrides_are_stronger_than_files_and_arms_and_flags_are_overrides"),
    F("a grid is stronger than overrides", "experiment", "read_experiment", "[*point, *changes]", "[*changes, *point]", "experiment.points_of_a_grid_are_folders_inside_out_and_overrides_are_stronger"),
    F("runs go arm by arm instead of seed by seed", "experiment", "read_experiment", "return runs", "return sorted(runs, key=lambda run: run.arm)", "experiment.points_of_a_grid_are_folders_inside_out_and_overrides_are_stronger"),
    F("the weights are not seeded", "experiment", "Run.make_model", "torch.manual_seed(self.setting.seed)", "pass", "experiment.the_seed_alone_decides_the_first_weights"),
    F("fractions are cut", "tables", "_number", "float(Fraction(numerator) / Fraction(denominator or '1'))", "float(Fraction(numerator))", "experiment.overrides_are_stronger_than_files_and_arms_and_flags_are_overrides"),
    F("unknown keys pass", "tables", "known", "key not in allowed", "False", "experiment.missing_files_and_arms_are_named"),
    F("attack-bf16 attacks in float32", "kernels", "Kernels.attack", "replace(attack, autocast=True)", "attack", "experiment.the_kernels_reach_the_attacks_and_the_compiler"),
    F("the compiler gives up after eight shapes", "kernels", "Kernels.model", "max(torch._dynamo.config.recompile_limit, 64)", "8", "experiment.the_kernels_reach_the_attacks_and_the_compiler"),
    F("a run that diverges stops the sweep", "commands", "_one_run", "FloatingPointError", "ZeroDivisionError", "experiment.a_run_that_diverges_does_not_stop_the_others"),
    F("run --checkpoint-every is ignored", "__main__", "_run", "options.checkpoint_every", "None", "experiment.options_reach_train"),
    F("evaluate --data is ignored", "__main__", "_evaluate", "options.data", "None", "experiment.evaluate_keeps_other_measurements_and_uses_its_options"),
    F("evaluate stops at the first folder that fails", "__main__", "_evaluate", "status = 1", "return 1", "experiment.evaluate_names_the_folder_that_fails_and_goes_on"),
    F("evaluate says that all is well though one folder failed", "__main__", "_evaluate", "status = 1", "pass", "experiment.evaluate_names_the_folder_that_fails_and_goes_on"),
    F("evaluate --restarts is ignored", "measure", "evaluate_run", "robust_accuracy(model, x, y, attack, restarts, draw, None, True)", "robust_accuracy(model, x, y, attack, 1, draw, None, True)", "experiment.evaluate_keeps_other_measurements_and_uses_its_options"),
    F("a new evaluation erases all others", "measure", "evaluate_run", "[e for e in kept if any(e.get(k) != entry.get(k) for k in SAME)]", "[]", "experiment.evaluate_keeps_other_measurements_and_uses_its_options"),
    F("the standard error in test.json is the accuracy", "measure", "_entry", "accuracy.standard_error", "accuracy.value", "experiment.from_the_command_line_to_records_a_plot_and_test_accuracy"),
    # several processes
    F("processes' batches and networks are not compared", "descent", "Rule.__call__", "alike(model.parameters(), x, y)", "pass", "parallel.two_processes_are_one"),
    F("batches whose images are mirrored are alike", "parallel", "_mark", "bits * odd[:bits.shape[1]]", "bits.long()", "parallel.two_processes_are_one"),
    F("a batch in another order is alike", "parallel", "_mark", "across * odd[:len(bits)]", "across", "parallel.two_processes_are_one"),
    F("black batches of other sizes are alike", "parallel", "_mark", "(across * odd[:len(bits)]).sum() + rows.numel()", "(across * odd[:len(bits)]).sum()", "parallel.two_processes_are_one"),
    F("-0.0 is another pixel than 0.0", "parallel", "_mark", "tensor + 0", "tensor", "parallel.two_processes_are_one"),
    F("a process whose weights are NaN is alike", "parallel", "alike", "sums.nan_to_num(1e9, 1e9, -1e9)", "sums", "parallel.two_processes_are_one"),
    F("processes' weights are compared in whole norms", "parallel", "alike", "torch.stack([part.sum() for part in weights.chunk(8)]) / weights.norm().clamp_min(1e-9)", "torch.stack([part.sum() for part in weights.chunk(8)]) // weights.norm().clamp_min(1e-9)", "parallel.two_processes_are_one"),
    F("processes do not sum their gradients", "parallel", "total", "dist.all_reduce(tensor)", "pass", "parallel.two_processes_are_one"),
    F("CFOL forgets to divide by the chance of the class", "samplers", "Draws.follow", "(self.sampler.eta or 0.0) * errors / self.chances", "(self.sampler.eta or 0.0) * errors", "samplers.the_estimate_of_the_errors_is_unbiased"),
    F("CFOL explores nothing", "samplers", "Draws.chances", "gamma / self.classes + (1 - gamma) * self.weights.softmax(0)", "self.weights.softmax(0)", "samplers.the_probabilities_are_a_mix_of_uniform_and_softmax"),
    F("CFOL's errors are those of the first perturbation", "samplers", "_Watched.restarts", "torch.stack([model(x[only] + d).argmax(1) != y[only] for d in deltas]).any(0)", "torch.stack([model(x[only] + d).argmax(1) != y[only] for d in deltas])[0]", "samplers.an_epoch_with_cfol_by_hand"),
    F("CFOL's errors are those of the clean images", "samplers", "_Watched.restarts", "x[only] + d", "x[only]", "samplers.an_epoch_with_cfol_by_hand"),
    F("CFOL knows the errors of this process's share alone", "samplers", "Draws.follow", "total(y[wrong].bincount(minlength=self.classes))", "y[wrong].bincount(minlength=self.classes)", "parallel.two_processes_are_one"),
    F("the last images of a class are never drawn", "samplers", "Draws.batch", "(share * self.count[chosen]).long()", "(share * (self.count[chosen] - 1)).long()", "samplers.classes_are_drawn_by_their_probabilities_and_images_uniformly_within"),
    F("a resumed run begins with CFOL's first weights", "trainer", "_Training.load_state_dict", "state['classes'].to(self.device)", "torch.zeros_like(state['classes'])", "samplers.an_interrupted_run_with_a_sampler_is_the_uninterrupted_one"),
    F("the worst class's accuracy is the best one's", "trainer", "_Training.evaluate", "min(each.values())", "max(each.values())", "trainer.every_column_of_a_record_is_what_it_says"),
    F("the sampler is no part of what decides a run", "plan", "config_of", "sampler is not None", "False", "samplers.a_run_with_a_sampler_is_read_from_a_file_and_from_its_record"),
    F("every process takes the same samples", "parallel", "own", "slice(rank() * size, (rank() + 1) * size)", "slice(0, size)", "parallel.a_batch_that_cannot_be_shared_is_refused"),
    F("a batch that cannot be shared is cut silently", "parallel", "own", "count % world()", "False", "parallel.a_batch_that_cannot_be_shared_is_refused"),
    F("running statistics of the processes are summed", "parallel", "average_buffers", "buffer.div_(world())", "buffer", "parallel.two_processes_are_one"),
    F("a network's own code is not in its identity", "identity", "network_hash", "reading.written(module, whole=False)", "[]", "trainer.all_that_decides_a_network_of_ones_own_is_in_its_identity"),
    # figures and benchmarks
    F("seeds are not cut to the shortest", "plots", "curves", "min(len(record.metrics[y]) for record in arms[arm])", "max(len(record.metrics[y]) for record in arms[arm])", "plots.seeds_are_cut_to_the_shortest_and_records_without_rows_passed_over"),
    F("the band is on one side", "plots", "curves", "mean - spread", "mean", "plots.curves_are_means_with_a_standard_deviation"),
    F("the warm-up counts, and the last round is dropped", "benchmarks/timing", "interleaved", "values[1:]", "values[:-1]", "benchmarks.jobs_run_in_turn_forwards_and_backwards_and_the_warm_up_is_what_is_dropped"),
    F("ratios are taken across rounds", "benchmarks/timing", "ratio", "one / other", "one / other.mean()", "benchmarks.ratios_are_taken_inside_a_round"),
    F("memory that is freed still counts", "benchmarks/timing", "peak_memory", "e.nbytes()", "max(0, e.nbytes())", "benchmarks.peak_memory_counts_what_is_alive_together"),
    F("the timed processes are not joined", "benchmarks/timing", "_serve", "parallel.start()", "torch.device('cpu')", "benchmarks.jobs_run_in_joined_processes_and_a_dead_one_does_not_hang"),
    F("forward-mode passes are not charged", "benchmarks/bench", "", "(14, 2, 2)", "(14, 2, 0)", "benchmarks.forward_mode_passes_that_are_charged_are_taken"),
    F("comb's attacks are charged like DDi's", "benchmarks/bench", "", "(14, 10, 0)", "(70, 10, 0)", "benchmarks.the_passes_that_are_charged_are_those_of_the_rules"),
    F("100 problems are compared with 1 000", "benchmarks/bench", "Bench.solver", "10 * seconds['one']", "seconds['one']", "benchmarks.the_solver_stands_over_its_peers_and_a_hundred_problems_count_for_a_thousand"),
    F("the ratio of processes is upside down", "benchmarks/bench", "Bench.processes", "ratio(seconds[name], seconds[f'{name} alone'])", "ratio(seconds[f'{name} alone'], seconds[name])", "benchmarks.processes_stand_over_one_process"),
    F("the solver's share of a step is upside down", "benchmarks/bench", "Bench.steps", "ratio(seconds['solver'], seconds['DDi, m = 10'])", "ratio(seconds['DDi, m = 10'], seconds['solver'])", "benchmarks.steps_are_given_in_units_of_pgd_and_their_limits_in_units_of_its_passes"),
]
