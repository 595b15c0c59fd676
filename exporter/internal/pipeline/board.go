package pipeline

import (
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Board is the ranking over all sources, each of which is read by a goroutine
// of its own.
type Board struct {
	mu    sync.Mutex
	board *offender.Board
}

// NewBoard makes an empty ranking.
func NewBoard(o offender.Options) *Board { return &Board{board: offender.NewBoard(o)} }

func (b *Board) observe(ob correlate.Observation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := offender.Place{Host: ob.Host, Jail: ob.Jail}
	switch ob.Kind {
	case correlate.SawBan:
		b.board.Ban(offender.BanFact{Place: p, ID: ob.ID, At: ob.Time, Delay: ob.Delay.V, HasDelay: ob.Delay.OK, Manual: ob.Manual})
	case correlate.SawEnd:
		b.board.End(offender.EndFact{Place: p, ID: ob.ID, At: ob.Time, True: ob.True})
	case correlate.SawRestore:
		b.board.Restore(p, ob.ID, ob.Time)
	case correlate.SawFailure:
		b.board.Failure(p, ob.ID, ob.Time)
	case correlate.SawGapFailure:
		b.board.GapFailure(p, ob.ID, ob.Time)
	}
}

// Rank gives the first top ids as of now.
func (b *Board) Rank(now time.Time, top int) offender.Ranking {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.board.Rank(now, top)
}
