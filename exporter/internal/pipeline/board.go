package pipeline

import (
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Board is the ranking over all sources, each of which is read by a goroutine
// of its own and tells the ranking through a Board of its own: see For.
type Board struct {
	all    *ranking
	source string

	// What says the findings of the source, where somebody wants them. One
	// goroutine alone uses it: that which reads the source.
	own  *ranking // of this source alone; the same as all where there is no other
	says bool
	top  int
	hour time.Time // the ranking has been told up to this one
	end  time.Time // of what is read now: a stamp beyond is a clock gone wrong
	said []offender.Finding

	// Watch, where set, is shown what the ranking is told.
	Watch func(correlate.Observation, offender.Place)
	// Ignore, where set, names ids that are not ranked.
	Ignore func(id string) bool
}

// ranking is a board with what keeps its users apart.
type ranking struct {
	mu    sync.Mutex
	o     offender.Options
	board *offender.Board
	parts []*ranking // of that of all sources: each source's, where it has one of its own
}

// NewBoard makes an empty ranking.
func NewBoard(o offender.Options) *Board {
	r := newRanking(o)
	return &Board{all: r, own: r}
}

func newRanking(o offender.Options) *ranking { return &ranking{o: o, board: offender.NewBoard(o)} }

// For gives the Board through which one source tells the ranking. Hosts of the
// same name in two sources are two hosts.
func (b *Board) For(source string) *Board {
	return &Board{all: b.all, own: b.all, source: source, Watch: b.Watch, Ignore: b.Ignore}
}

// Tell makes findings of the ranking: of each id that becomes a repeat or a
// persistent offender, and of the first top ids at each full hour.
//
// They are about this source alone, so that they depend on nothing but its
// log: where it is not the only one, Separate comes first.
func (b *Board) Tell(top int) { b.top, b.says = top, true }

// Separate gives the source a ranking of its own beside that of all: for its
// findings and for its state, neither of which may depend on another source.
func (b *Board) Separate(o offender.Options) {
	b.own = newRanking(o)
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	b.all.parts = append(b.all.parts, b.own)
}

// reset forgets what the ranking knows of this source, whose history is read
// again, and tells how many of its bans came from which country.
func (b *Board) reset() (countries map[string]uint64) {
	b.hour, b.said = time.Time{}, nil
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	countries = b.own.board.Countries()
	b.all.board = offender.NewBoard(b.all.o)
	if b.own == b.all {
		return countries
	}
	b.own.mu.Lock()
	b.own.board = offender.NewBoard(b.own.o)
	b.own.mu.Unlock()
	for _, p := range b.all.parts {
		p.mu.Lock()
		b.all.board.Merge(p.board)
		p.mu.Unlock()
	}
	return countries
}

// fresh is an empty ranking for what this source tells, with the same options.
// It makes no findings.
func (b *Board) fresh() *Board {
	f := NewBoard(b.own.o).For(b.source)
	f.Ignore = b.Ignore
	return f
}

// replace puts what another reading of a host's log told into the place of what
// was told of it before.
func (b *Board) replace(host string, by *Board) {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	shown := b.own.board.Countries()
	if b.own != b.all {
		b.own.mu.Lock()
		b.all.board.Replace(b.source, host, by.own.board)
		defer b.own.mu.Unlock()
	}
	reached := b.own.board.Replace(b.source, host, by.own.board)
	if b.says {
		b.said = append(b.said, reached...)
	}
	b.raiseTo(shown)
}

// raise brings the bans by country, after the history was read again, to what
// was shown before: counters do not fall.
func (b *Board) raise(shown map[string]uint64) {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	b.raiseTo(shown)
}

func (b *Board) raiseTo(shown map[string]uint64) {
	now, more := b.own.board.Countries(), map[string]uint64{}
	for country, n := range shown {
		more[country] = n - min(n, now[country])
	}
	b.own.board.AddCountries(more)
	if b.own != b.all {
		b.all.board.AddCountries(more)
	}
}

// takeOver goes on from what the ranking of this source was.
func (b *Board) takeOver(board *offender.Board, hour time.Time) {
	b.hour = hour
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	if b.own == b.all {
		b.all.board = board
		return
	}
	b.own.board = board
	b.all.board.Merge(board)
}

// freezeOwn is a copy of the source's own ranking.
func (b *Board) freezeOwn() *offender.Board {
	b.own.mu.Lock()
	defer b.own.mu.Unlock()
	return b.own.board.Freeze()
}

func (b *Board) observe(ob correlate.Observation) {
	if b.Ignore != nil && b.Ignore(ob.ID) {
		return
	}
	p := offender.Place{Source: b.source, Host: ob.Host, Jail: ob.Jail}
	if b.Watch != nil {
		b.Watch(ob, p)
	}
	if b.own != b.all {
		b.tell(b.own, &ob, p, b.says)
	}
	b.tell(b.all, &ob, p, b.says && b.own == b.all)
}

// tell tells a ranking one fact, and makes the findings that follow from it.
func (b *Board) tell(r *ranking, ob *correlate.Observation, p offender.Place, says bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if says {
		b.passHour(r.board, ob.Time)
	}
	switch ob.Kind {
	case correlate.SawBan:
		reached := r.board.Ban(offender.BanFact{Place: p, ID: ob.ID, At: ob.Time, Delay: ob.Delay.V, HasDelay: ob.Delay.OK, Manual: ob.Manual})
		if says && reached != offender.None {
			b.said = append(b.said, r.board.Finding(ob.ID, reached))
		}
	case correlate.SawEnd:
		r.board.End(offender.EndFact{Place: p, ID: ob.ID, At: ob.Time, True: ob.True})
	case correlate.SawRestore:
		r.board.Restore(p, ob.ID, ob.Time)
	case correlate.SawFailure:
		r.board.Failure(p, ob.ID, ob.Time)
	case correlate.SawGapFailure:
		r.board.GapFailure(p, ob.ID, ob.Time)
	}
}

// passHour says the ranking of a full hour when the first fact comes that is
// newer: as of that fact in the log, however the log is cut into windows. Hours
// in which nothing happened are passed over, but for the last of them.
func (b *Board) passHour(board *offender.Board, at time.Time) {
	hour := at.UTC().Truncate(time.Hour)
	if !hour.After(b.hour) || !b.end.IsZero() && at.After(b.end) {
		return
	}
	if !b.hour.IsZero() {
		b.said = append(b.said, board.Hour(hour, b.top)...)
	}
	b.hour = hour
}

// upTo says where what is read next ends.
func (b *Board) upTo(end time.Time) { b.end = end }

// Findings gives what there was to say of this source since the last call.
func (b *Board) Findings() []offender.Finding {
	out := b.said
	b.said = nil
	return out
}

// Rank gives the first top ids over all sources as of now.
func (b *Board) Rank(now time.Time, top int) offender.Ranking {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	return b.all.board.Rank(now, top)
}

// Countries gives the true bans over all sources by country; nil where no
// origins are told.
func (b *Board) Countries() map[string]uint64 {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	return b.all.board.Countries()
}

// Freeze gives a copy of the ranking over all sources, to compute on for long
// while the sources go on.
func (b *Board) Freeze() *offender.Board {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	return b.all.board.Freeze()
}
