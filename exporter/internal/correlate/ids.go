package correlate

import (
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// Indices of Counts.Verbs.
const (
	verbFound = iota
	verbBan
	verbRestoreBan
	verbUnban
	verbRepealBan
	verbReban
	verbIncreaseBan
	verbAlreadyBanned
	verbIgnore
	verbAttempt
	verbFlush
)

// idEvent takes an event that speaks of one id.
func (h *host) idEvent(ev *fail2ban.Event, at ms) {
	j := h.jail(ev.Jail)
	if j == nil {
		return // 0.8's "Found X" names no jail
	}
	switch ev.Kind {
	case fail2ban.Found:
		j.counts.Verbs[verbFound]++
		j.found(j.track(ev.ID), ev, at)
	case fail2ban.Attempt:
		j.counts.Verbs[verbAttempt]++
		j.attempt(j.track(ev.ID), ev, at)
	case fail2ban.Ban:
		j.counts.Verbs[verbBan]++
		j.banned(j.track(ev.ID), at)
	case fail2ban.RestoreBan:
		j.counts.Verbs[verbRestoreBan]++
		j.restored(j.track(ev.ID), at, "restore")
	case fail2ban.Unban:
		j.counts.Verbs[verbUnban]++
		j.unbanned(j.track(ev.ID), ev, at)
	case fail2ban.RepealBan:
		j.counts.Verbs[verbRepealBan]++
		j.unbanned(j.track(ev.ID), ev, at)
	default:
		j.remark(ev, at)
	}
}

// remark takes what fail2ban says beside bans and unbans.
func (j *jail) remark(ev *fail2ban.Event, at ms) {
	t := j.tracks[ev.ID]
	switch ev.Kind {
	case fail2ban.IncreaseBan:
		j.counts.Verbs[verbIncreaseBan]++
		j.h.occur(at, "increase", j.name, ev.ID, "")
		j.raised(j.track(ev.ID), ev, at)
	case fail2ban.FoundAgain:
		j.track(ev.ID).waiting().known = at
	case fail2ban.IsBad:
		j.bad(j.track(ev.ID), at)
	case fail2ban.AlreadyBanned:
		j.counts.Verbs[verbAlreadyBanned]++
		j.h.occur(at, "already_banned", j.name, ev.ID, "")
		if t != nil {
			j.prolonged(t, at)
		}
	case fail2ban.Reban:
		j.counts.Verbs[verbReban]++
		j.h.occur(at, "reban", j.name, ev.ID, "")
	case fail2ban.Ignore, fail2ban.IgnoreExpired:
		j.counts.Verbs[verbIgnore]++
		j.h.occur(at, "ignored", j.name, ev.ID, "")
		// the new life's ignore list released it; the line may stand before `Jail 'J' started`
		if t != nil && ev.Kind == fail2ban.Ignore && t.state == suspended && t.liftEpoch != j.epoch {
			j.close(t, t.lifted, EndedManual, Certain)
		}
	case fail2ban.ActionError:
		j.counts.ActionErrors++
		j.h.occur(at, "action_error", j.name, ev.ID, "")
	}
}

// resolve settles what waits for this id, because its next line is here.
func (j *jail) resolve(t *track) {
	if u := t.waits().unban; u != nil {
		j.settleUnbans(u.seq)
	}
	if t.waits().ban != nil {
		j.settleBan(t)
	}
}
