package pipeline

import (
	"slices"
	"sync"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// Recent keeps the newest restores of a source, for whoever asks meanwhile.
type Recent struct {
	mu   sync.Mutex
	keep int
	rows []correlate.Restore // in the order of every report
	// What is shown while the history is read again: what was known before.
	before []correlate.Restore
	// Restores that are not said yet: whether their attackers are back is open.
	waiting []correlate.Restore
}

// NewRecent keeps so many.
func NewRecent(keep int) *Recent { return &Recent{keep: keep} }

// Restores gives them, the newest first. Nobody may change them.
func (r *Recent) Restores() []correlate.Restore {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.rows)
	if r.before != nil {
		out = slices.Clone(r.before)
	}
	out = append(out, r.waiting...)
	slices.Reverse(out)
	slices.SortStableFunc(out, func(a, b correlate.Restore) int { return b.Time.Compare(a.Time) })
	return out[:min(len(out), r.keep)]
}

// add takes findings, in any order, and what the engine has not said yet.
func (r *Recent) add(findings []correlate.Finding, e *correlate.Engine) {
	var found []correlate.Finding
	for i := range findings {
		if findings[i].Kind == correlate.FindingRestore {
			found = append(found, findings[i])
		}
	}
	slices.SortStableFunc(found, correlate.Compare)
	waiting := e.WaitingRestores(r.keep)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.before == nil {
		r.waiting = waiting
	}
	for i := range found {
		r.rows = append(r.rows, *found[i].Restore)
	}
	slices.SortStableFunc(r.rows, func(a, b correlate.Restore) int { return a.Time.Compare(b.Time) })
	r.drop()
}

// startAgain is called where the history is going to be read again, with all
// restores in it, and finishAgain when it was.
func (r *Recent) startAgain() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.rows = append([]correlate.Restore{}, r.rows...), nil
}

func (r *Recent) finishAgain() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = nil
}

// forget drops the restores of a host, whose history was read again: they come
// again with its findings.
func (r *Recent) forget(host string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = slices.DeleteFunc(r.rows, func(row correlate.Restore) bool { return row.Host == host })
}

// drop keeps no more than it shall, in memory of its own: what was sliced off
// would stay.
func (r *Recent) drop() {
	if n := len(r.rows) - r.keep; n > 0 {
		r.rows = slices.Clone(r.rows[n:])
	}
}

// all gives them oldest first, to be kept in the state; none of no Recent.
func (r *Recent) all() []correlate.Restore {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rows)
}

// takeOver goes on from what the state kept.
func (r *Recent) takeOver(rows []correlate.Restore) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = rows
	r.drop()
}
