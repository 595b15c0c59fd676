package correlate

import (
	"strings"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// unban is an `Unban` line that waits: its jail may be about to stop.
type unban struct {
	t         *track
	at        ms
	seq       uint64
	automatic bool // logged by the jail's own thread
	line      Line
}

// unbanned takes `Unban` and `Repeal Ban`.
func (j *jail) unbanned(t *track, ev *fail2ban.Event, at ms) {
	if b := t.waits().ban; b != nil && (at < b.at || at == b.at && t.state == active) {
		j.unbannedBefore(t, b, ev, at)
		return
	}
	j.resolve(t)
	if j.h.legacyStop() {
		j.holdUnban(&unban{t: t, at: at, seq: j.h.seq, line: j.h.line})
		return
	}
	if cause, c, ok := j.unbanBySurroundings(ev); ok {
		j.unban(t, at, j.h.seq, cause, c, j.h.line)
		return
	}
	j.h.unbans.add(at, span(j.h.e.o.StopPause))
	u := &unban{t: t, at: at, seq: j.h.seq, automatic: j.h.ownThread(ev.Thread), line: j.h.line}
	t.waiting().unban = u
	j.unbans = append(j.unbans, u)
	j.wake(at + span(j.h.e.o.StopPause) + 1)
}

// unbannedBefore takes an unban whose line came an instant after that of the
// ban it made way for.
func (j *jail) unbannedBefore(t *track, b *banLine, ev *fail2ban.Event, at ms) {
	t.wait.ban = nil
	cause, c, ok := j.unbanBySurroundings(ev)
	if !ok {
		cause, c = j.unbanByTime(t, &unban{at: at, automatic: j.h.ownThread(ev.Thread)})
	}
	j.unban(t, at, j.h.seq, cause, c, j.h.line)
	t.waiting().ban = b
}

// unbanBySurroundings is the verdict where the lines before tell it.
func (j *jail) unbanBySurroundings(ev *fail2ban.Event) (Cause, Confidence, bool) {
	run, reload := &j.h.run, &j.h.reload
	switch {
	case run.stopping != 0 && run.exited == 0:
		return Shutdown, Certain, true
	case ev.Kind == fail2ban.RepealBan:
		return JailStop, Certain, true
	case j.h.mainThread(ev.Thread):
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
	for _, u := range j.unbans {
		if u.seq > upTo {
			break
		}
		n++
		if u.t.waits().unban == u {
			cause, c := j.unbanByTime(u.t, u)
			j.settleUnban(u, cause, c)
		}
	}
	j.unbans = dropFront(j.unbans, n)
}

// settleUnban ends an unban's wait. A ban that is told before it by its time
// comes first.
func (j *jail) settleUnban(u *unban, cause Cause, c Confidence) {
	if u.t.wait.ban != nil {
		j.settleBan(u.t)
		if cause != Shutdown && cause != JailStop {
			cause, c = j.unbanByTime(u.t, u)
		}
	}
	u.t.wait.unban = nil
	j.unban(u.t, u.at, u.seq, cause, c, u.line)
	u.t.tidy()
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
	case j.over(t, end, u.at):
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
		u := j.unbans[first-1]
		live := u.t.waits().unban == u
		if live && next-u.at > span(j.h.e.o.StopPause) {
			break
		}
		if live {
			next = u.at
		}
		first--
	}
	claimed := j.unbans[first:]
	j.unbans = j.unbans[:first]
	j.settleUnbans(endOfLog)
	for _, u := range claimed {
		if u.t.waits().unban != u {
			continue
		}
		if cause == JailStop && j.mayBeLifted() {
			j.holdUnban(u)
			continue
		}
		j.settleUnban(u, cause, Likely)
	}
	j.unbans = nil
}

// unbanRunEndsAt tells whether this jail's waiting unbans reach the last line
// of a run: at log level NOTICE that is what a stop looks like.
func (j *jail) unbanRunEndsAt(last ms) bool {
	n := len(j.unbans)
	return n > 0 && j.unbans[n-1].t.waits().unban == j.unbans[n-1] && last-j.unbans[n-1].at <= span(j.h.e.o.StopPause)
}

// waitingUnbans counts the bans whose unban waits.
func (j *jail) waitingUnbans() (n int) {
	for _, u := range j.unbans {
		if u.t.waits().unban == u && u.t.state == active {
			n++
		}
	}
	return n
}

// unban counts a settled unban and ends or suspends its ban.
func (j *jail) unban(t *track, at ms, seq uint64, cause Cause, c Confidence, line Line) {
	detail := j.unbanDetail(at, cause)
	j.countUnban(t, at, seq, cause, c, detail, line)
	if t.state == idle && (t.started == 0 || cause == Shutdown || cause == JailStop) {
		j.openUnseen(t)
	}
	t.noteLift(j, line)
	if (cause == Expired || cause == CauseUnknown) && j.banTime == 0 && t.base != 0 && t.state == active && t.end(j) == 0 {
		j.learn(at - t.base)
	}
	switch cause {
	case Shutdown:
		j.suspend(t, at, byStop)
	case JailStop:
		j.suspend(t, at, byJailStop)
	case Expired:
		j.close(t, at, EndedExpired, c)
	case Manual:
		if row := j.close(t, at, EndedManual, c); row != nil {
			row.Detail = detail
		}
	default:
		j.close(t, at, EndedUnknown, c)
	}
}

// legacyStop tells that 0.8 or 0.9 stops all jails: for good, or in a reload,
// which shows only in what follows.
func (h *host) legacyStop() bool {
	return h.run.stopping != 0 && h.run.exited == 0 && fail2ban.LegacyVersion(h.version)
}

func (j *jail) countUnban(t *track, at ms, seq uint64, cause Cause, c Confidence, detail string, line Line) {
	j.counts.Unbans[unbanCause(cause)]++
	j.h.verdict(at, seq, Occurrence{Event: "unban", Jail: j.name, ID: t.id, Cause: cause, Confidence: c, Detail: detail}, j.unbanProof(t, cause, line))
}

// openUnseen stands for a ban whose start is not in the log.
func (j *jail) openUnseen(t *track) {
	j.setState(t, active)
	t.origin = originUnseen
	t.started, t.since, t.base, t.own, t.until, t.banned = 0, 0, 0, 0, 0, 0
	t.source, t.follows, t.exact, t.restores, t.failures, t.came = fromUnknown, false, false, 0, 0, cameFirst
}

func unbanCause(c Cause) int {
	for i, u := range UnbanCauses {
		if u == c {
			return i
		}
	}
	return len(UnbanCauses) - 1
}

// ownThread tells the thread of a jail's actions, which lifts what expired:
// journald keeps its name, and with -vv the log has its number.
func (h *host) ownThread(thread string) bool {
	return strings.HasPrefix(thread, "f2b/a") || thread != "" && h.run.thread != "" && thread != h.run.thread
}

// mainThread tells the thread that obeys fail2ban-client. With -vv the log has
// its number, which is that of the server's first lines.
func (h *host) mainThread(thread string) bool {
	return thread == "MainThread" || thread != "" && thread == h.run.thread
}

// unbanDetail says more of an administrator's unban: that it lifted every ban
// of the host at once, or that it comes at the same time every day.
func (j *jail) unbanDetail(at ms, cause Cause) string {
	if cause != Manual {
		return ""
	}
	var words []string
	if j.h.liftedAll(at, span(j.h.e.o.StopPause)) {
		words = append(words, "scope=all")
	}
	if j.h.byHand.scheduled(at) {
		words = append(words, "scheduled")
	}
	return strings.Join(words, " ")
}

// unbanRun is the present run of unbans of a host, back to back.
type unbanRun struct {
	from, last ms
	n          int
}

func (r *unbanRun) add(at, pause ms) {
	if at-r.last > pause {
		*r = unbanRun{from: at}
	}
	r.last = max(r.last, at)
	r.n++
}

// liftedAll tells whether an unban was one of a run after which the host has no
// ban left: `unban --all`, which leaves no other trace. One ban alone is none.
func (h *host) liftedAll(at, pause ms) bool {
	if h.unbans.n < 2 || at < h.unbans.from || at > h.unbans.last+pause {
		return false
	}
	left := 0
	for _, j := range h.jails {
		left += j.active - j.waitingUnbans()
	}
	return left <= 1 // its own ban is still open
}

// dailyUnbans remembers when administrators lifted bans: what comes at the same
// time on several days is a schedule's doing.
type dailyUnbans struct {
	last [scheduleMemory]ms
	n    int
}

const (
	scheduleMemory       = 32
	scheduleDays         = 3       // so many days make a schedule
	scheduleTolerance    = 120_000 // ms around the time of day
	day               ms = 86_400_000
)

// scheduled notes an unban and tells whether it is one of a schedule.
func (d *dailyUnbans) scheduled(at ms) bool {
	days := map[ms]bool{0: true}
	for _, u := range d.last[:min(d.n, len(d.last))] {
		apart := (at - u) % day
		if apart < 0 {
			apart += day
		}
		if min(apart, day-apart) <= scheduleTolerance {
			days[(at-u+day/2)/day] = true
		}
	}
	d.last[d.n%len(d.last)] = at
	d.n++
	return len(days) >= scheduleDays
}
