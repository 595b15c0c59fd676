package correlate

import (
	"strings"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// unban is an `Unban` line that waits: its jail may be about to stop.
type unban struct {
	at        ms
	seq       uint64
	automatic bool // logged by the jail's own thread
}

// unbanned takes `Unban` and `Repeal Ban`.
func (j *jail) unbanned(t *track, ev *fail2ban.Event, at ms) {
	j.resolve(t)
	if cause, c, ok := j.unbanBySurroundings(ev); ok {
		j.unban(t, at, j.h.seq, cause, c)
		return
	}
	t.unban = &unban{at: at, seq: j.h.seq, automatic: strings.HasPrefix(ev.Thread, "f2b/a")}
	j.unbans = append(j.unbans, t)
	j.wake(at + span(j.h.e.o.StopPause) + 1)
}

// unbanBySurroundings is the verdict where the lines before tell it.
func (j *jail) unbanBySurroundings(ev *fail2ban.Event) (Cause, Confidence, bool) {
	run, reload := &j.h.run, &j.h.reload
	switch {
	case run.stopping != 0 && run.exited == 0:
		return Shutdown, Certain, true
	case ev.Kind == fail2ban.RepealBan:
		return JailStop, Certain, true
	case ev.Thread == "MainThread":
		return Manual, Certain, true
	case reload.stopping, j.stopping != 0:
		return JailStop, Certain, true
	case reload.open && reload.all && !reload.listed:
		return Manual, Certain, true // reload --unban
	case reload.open && reload.jail == j.name && len(j.files) > 0:
		return Manual, Certain, true // restart --unban J: the jail still watches its files
	}
	return "", "", false
}

// settleUnbans decides the waiting unbans up to an event of the host's log:
// no stop of their jail followed.
func (j *jail) settleUnbans(upTo uint64) {
	n := 0
	for _, t := range j.unbans {
		if t.unban == nil {
			n++
			continue
		}
		if t.unban.seq > upTo {
			break
		}
		u := t.unban
		cause, c := j.unbanByTime(t, u)
		t.unban = nil
		j.unban(t, u.at, u.seq, cause, c)
		n++
	}
	j.unbans = dropFront(j.unbans, n)
}

// unbanByTime is the verdict of a running server: at its end a ban expires,
// before it an administrator lifted it.
func (j *jail) unbanByTime(t *track, u *unban) (Cause, Confidence) {
	end := t.end(j)
	switch {
	case u.automatic:
		return Expired, Certain
	case t.state == idle || end == 0:
		return CauseUnknown, Unsure
	case end == never:
		return Manual, Certain
	case j.over(end, u.at):
		return Expired, Likely
	}
	return Manual, Likely
}

// claimUnbans gives the unbans directly before the end of the jail's life to its
// stop.
func (j *jail) claimUnbans(stopped ms, cause Cause) {
	first := len(j.unbans)
	next := stopped
	for first > 0 {
		u := j.unbans[first-1].unban
		if u != nil && next-u.at > span(j.h.e.o.StopPause) {
			break
		}
		if u != nil {
			next = u.at
		}
		first--
	}
	claimed := j.unbans[first:]
	j.unbans = j.unbans[:first]
	j.settleUnbans(endOfLog)
	for _, t := range claimed {
		if u := t.unban; u != nil {
			t.unban = nil
			j.unban(t, u.at, u.seq, cause, Likely)
		}
	}
	j.unbans = nil
}

// unbanRunEndsAt tells whether this jail's waiting unbans reach the last line
// of a run: at log level NOTICE that is what a stop looks like.
func (j *jail) unbanRunEndsAt(last ms) bool {
	n := len(j.unbans)
	return n > 0 && j.unbans[n-1].unban != nil && last-j.unbans[n-1].unban.at <= span(j.h.e.o.StopPause)
}

// unban counts a settled unban and ends or suspends its ban.
func (j *jail) unban(t *track, at ms, seq uint64, cause Cause, c Confidence) {
	j.counts.Unbans[unbanCause(cause)]++
	j.h.occurAt(at, seq, "unban", j.name, t.id, cause, c)
	if t.state == idle && (t.started == 0 || cause == Shutdown || cause == JailStop) {
		j.openUnseen(t)
	}
	switch cause {
	case Shutdown:
		j.suspend(t, at, byStop)
	case JailStop:
		j.suspend(t, at, byJailStop)
	case Expired:
		j.close(t, at, EndedExpired, c)
	case Manual:
		j.close(t, at, EndedManual, c)
	default:
		if j.banTime == 0 && t.base != 0 && t.state == active {
			j.learnt.add(at - t.base)
		}
		j.close(t, at, EndedUnknown, c)
	}
}

// openUnseen stands for a ban whose start is not in the log.
func (j *jail) openUnseen(t *track) {
	t.state, t.origin = active, originUnseen
	t.started, t.since, t.base, t.own, t.until, t.banned = 0, 0, 0, 0, 0, 0
	t.source, t.follows, t.restores, t.failures, t.delay = fromUnknown, false, 0, 0, -1
}

func unbanCause(c Cause) int {
	for i, u := range UnbanCauses {
		if u == c {
			return i
		}
	}
	return len(UnbanCauses) - 1
}
