"""A small front of HiGHS: a linear (or mixed) program from arrays, solved; what can't be solved is an error.

Minimise x₀ + 2·x₁ with x₀ + x₁ ≥ 3 and 0 ≤ x ≤ 2 → (2, 1).
"""

from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_OPTIMAL = highspy.HighsModelStatus.kOptimal
_INFEASIBLE = (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible)
_OUT_OF_TIME = highspy.HighsModelStatus.kTimeLimit


class InfeasibleError(Exception):
    """No values meet all rows."""


class UnsolvedError(RuntimeError):
    """The solver ended without a solution, for another reason."""


@dataclass(frozen=True, slots=True)
class Solution:
    """``objective`` of ``values``, and ``bound``: no solution is below it (the same, unless time ran out)."""

    values: Floats
    objective: float
    bound: float
    seconds: float


@dataclass(slots=True)
class Program:
    """Columns are given once, rows are added; all rows are ``lower ≤ a·x ≤ upper``."""

    cost: Floats
    lower: Floats
    upper: Floats
    integer: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Columns that must be whole."""
    _rows: list[Ints] = field(default_factory=list)
    _columns: list[Ints] = field(default_factory=list)
    _factors: list[Floats] = field(default_factory=list)
    _row_lower: list[Floats] = field(default_factory=list)
    _row_upper: list[Floats] = field(default_factory=list)
    _count: int = 0

    def add_rows(self, lower: Floats, upper: Floats, *terms: tuple[Ints, Ints, Floats | float]) -> None:
        """As many rows as ``lower`` has; each of ``terms``: rows (from 0, of these), columns and factors."""
        for rows, columns, factors in terms:
            self._rows.append(rows + self._count)
            self._columns.append(columns)
            self._factors.append(np.broadcast_to(np.asarray(factors, dtype=np.float64), rows.shape))
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        self._count += len(lower)

    def solve(self, *, time_limit_s: float, gap: float = 0.0) -> Solution | None:
        """The best solution, or one within ``gap`` of it; if time runs out the best found, with a ``bound`` below it.

        None: time ran out with none found. A program without whole columns may take as long as it needs.
        """
        new_solver: Any = highspy.Highs  # it has no types
        solver = new_solver()
        solver.setOptionValue("output_flag", False)
        if len(self.integer):
            solver.setOptionValue("time_limit", time_limit_s)
        solver.setOptionValue("mip_rel_gap", 0.0)
        solver.setOptionValue("mip_abs_gap", gap)
        solver.setOptionValue("threads", 1)
        solver.passModel(self._model())
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status in _INFEASIBLE:
            raise InfeasibleError
        found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        if status == _OUT_OF_TIME and not found:
            return None
        if status not in (_OPTIMAL, _OUT_OF_TIME):
            raise UnsolvedError(f"the solver ended with: {solver.modelStatusToString(status)}")
        objective = float(info.objective_function_value)
        bound = float(info.mip_dual_bound) if len(self.integer) else objective
        return Solution(np.array(solver.getSolution().col_value), objective, bound, float(solver.getRunTime()))

    def _model(self) -> highspy.HighsLp:
        rows, columns, factors = (
            np.concatenate(self._rows),
            np.concatenate(self._columns),
            np.concatenate(self._factors),
        )
        order = np.lexsort((rows, columns))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), self._count
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.cost, self.lower, self.upper
        lp.row_lower_, lp.row_upper_ = np.concatenate(self._row_lower), np.concatenate(self._row_upper)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=len(self.cost)))])
        lp.a_matrix_.index_, lp.a_matrix_.value_ = rows[order], factors[order]
        if len(self.integer):
            kinds = np.full(len(self.cost), highspy.HighsVarType.kContinuous, dtype=object)
            kinds[self.integer] = highspy.HighsVarType.kInteger
            lp.integrality_ = kinds.tolist()
        return lp
