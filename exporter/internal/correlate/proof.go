package correlate

import (
	"cmp"
	"slices"
)

// What proves a verdict is kept line by line where it is asked for
// (Options.Explain), and costs nothing else.

// hostProof are the lines that tell a host's runs.
type hostProof struct {
	last  Line // the newest of the present run
	stop  Line // the first of its stop
	exit  Line
	ended Line // how the run before ended: its exit, or its last line
	begun Line // the stop of the run before
	start Line
}

func (p *hostProof) begin(start Line, exited bool) {
	p.ended, p.begun = p.last, p.stop
	if exited {
		p.ended = p.exit
	}
	p.start, p.stop, p.exit = start, Line{}, Line{}
}

func (p *hostProof) restart() []Line { return lines(p.begun, p.ended, p.start) }

// jailProof are the lines that tell a jail's lives.
type jailProof struct {
	created, started, stopped, banTime Line
}

// trail are the lines that tell an id's ban.
type trail struct {
	fails []Line // since the last ban
	raise []Line // "is bad", "Increase Ban"
	ban   []Line // what proves the ban
	lift  Line   // its unban
	ended Line   // what ended the ban before
}

// maxTrail bounds the failures named for one ban.
const maxTrail = 16

// lines gives those of some lines that there are, in the order of the log.
func lines(ls ...Line) []Line {
	var out []Line
	for _, l := range ls {
		if l.Text != "" && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	slices.SortStableFunc(out, func(a, b Line) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

// trail gives the id's lines, to be added to; nil where nothing is explained.
func (t *track) lines(j *jail) *trail {
	if !j.h.e.o.Explain {
		return nil
	}
	w := t.waiting()
	if w.trail == nil {
		w.trail = &trail{}
	}
	return w.trail
}

func (t *track) noteFailure(j *jail) {
	if l := t.lines(j); l != nil {
		if len(l.fails) >= maxTrail {
			l.fails = slices.Delete(l.fails, 0, 1)
		}
		l.fails = append(l.fails, j.h.line)
	}
}

func (t *track) noteRaise(j *jail) {
	if l := t.lines(j); l != nil {
		l.raise = append(l.raise, j.h.line)
		if t.waits().ban == nil && t.state == active { // it came after its ban was settled
			l.ban = append(l.ban, j.h.line)
		}
	}
}

func (t *track) noteLift(j *jail, line Line) {
	if l := t.lines(j); l != nil {
		l.lift = line
	}
}

// noteBan begins the trail of a new ban.
func (t *track) noteBan(j *jail, proof []Line) {
	if l := t.lines(j); l != nil {
		l.ended, l.lift = l.lift, Line{}
		l.ban, l.fails, l.raise = proof, nil, nil
	}
}

func (t *track) banLines() []Line {
	if l := t.waits().trail; l != nil {
		return slices.Clone(l.ban)
	}
	return nil
}

// banProof are the failures and the `Ban`; for one that continues or ends a
// suspended ban also what lifted that and the start.
func (j *jail) banProof(t *track, b *banLine, o origin) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	all := append(slices.Clone(l.fails), l.raise...)
	if o == originGap || o == originReread {
		all = append(all, l.ban...)
		all = append(all, l.lift, j.h.proof.ended, j.h.proof.start, j.proof.started)
	}
	return lines(append(all, b.line)...)
}

// restoreProof are the ban's lines, its lift, the end of the run before, the
// start, and the restore itself.
func (j *jail) restoreProof(t *track) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	all := append(slices.Clone(l.ban), l.lift)
	if j.restart != nil {
		all = append(all, j.proof.stopped)
	} else {
		all = append(all, j.h.proof.restart()...)
	}
	all = append(all, j.proof.started)
	all = append(all, l.fails...)
	return lines(append(all, j.h.line)...)
}

// unbanProof are the ban's own line, what tells its end, and the unban; for
// those of a stop the stop's first line.
func (j *jail) unbanProof(t *track, cause Cause, line Line) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	var all []Line
	if n := len(l.ban); n > 0 {
		all = append(all, l.ban[n-1])
	}
	switch cause {
	case Shutdown:
		all = append(all, j.h.proof.stop)
	case JailStop:
		all = append(all, j.proof.stopped)
	default:
		all = append(append(all, j.proof.banTime), l.raise...)
	}
	return lines(append(all, line)...)
}

// endProof are the lines of a ban and of what ended it.
func (j *jail) endProof(t *track, by string) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	all := append(slices.Clone(l.ban), l.raise...)
	if by == EndedExpected {
		all = append(all, j.proof.banTime)
	}
	return lines(append(all, l.lift)...)
}

func (j *jail) reoffenceProof(t *track) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	return lines(append([]Line{l.ended}, l.ban...)...)
}

func (j *jail) lostProof(t *track) []Line {
	l := t.lines(j)
	if l == nil {
		return nil
	}
	return lines(append(slices.Clone(l.ban), l.lift, j.h.proof.ended, j.h.proof.start, j.proof.started)...)
}
