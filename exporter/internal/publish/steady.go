package publish

import (
	"cmp"
	"slices"
)

// Margin is by how many ranks one that has a series is preferred: a tenth.
func Margin(k int) int { return (k + 9) / 10 }

// Steady picks k of the first k + Margin(k) rows of a ranking: those that were
// picked before count as so many ranks better, so that whoever is about the last
// does not come and go with each look. The rows stay in their order.
func Steady[T any](rows []T, k int, id func(*T) string, before []T) []T {
	type pick struct{ rank, fresh, at int }
	rows = rows[:min(len(rows), k+Margin(k))]
	had := make(map[string]bool, len(before))
	for i := range before {
		had[id(&before[i])] = true
	}
	picks := make([]pick, len(rows))
	for i := range rows {
		picks[i] = pick{i, 1, i}
		if had[id(&rows[i])] {
			picks[i].rank, picks[i].fresh = i-Margin(k), 0
		}
	}
	slices.SortFunc(picks, func(a, b pick) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.fresh, b.fresh)) })
	picks = picks[:min(len(picks), k)]
	slices.SortFunc(picks, func(a, b pick) int { return cmp.Compare(a.at, b.at) })
	out := make([]T, len(picks))
	for i, p := range picks {
		out[i] = rows[p.at]
	}
	return out
}
