package correlate

// Report is the state as of now: what gauges and tables show. open says
// whether the running bans are listed.
func (e *Engine) Report(open bool) Report {
	r := Report{At: e.Newest()}
	for _, name := range e.Hosts() {
		r.Hosts = append(r.Hosts, e.hosts[name].report(open))
	}
	return r
}

func (h *host) report(open bool) HostReport {
	out := HostReport{
		Host: h.name, FirstLine: h.first.time(), LastLine: max(h.last, h.lastOther).time(), Version: h.version, Started: h.run.started.time(),
		Restarts: map[string]uint64{}, LifecycleLines: h.lifecycle, SettingsSeen: h.settings, Events: h.events,
	}
	for i, kind := range restartKinds {
		out.Restarts[kind] = h.counts[i]
	}
	if h.run.epoch > 0 {
		out.Running = Known(h.run.exited == 0)
	}
	for _, j := range h.sortedJails() {
		out.Jails = append(out.Jails, j.report(open))
	}
	return out
}

func (j *jail) report(open bool) JailReport {
	out := JailReport{Jail: j.name, FirstLine: j.firstLine.time(), LastLine: j.lastLine.time(), Running: j.running(), BanTime: maybeBanTime(j.banTime), Counts: j.counts, GapSeconds: j.gaps.clone(), Reoffence: j.reoffence.clone()}
	if d, _ := j.presentBanTime(); j.banTime == 0 {
		out.BanTime = maybeBanTime(d)
	}
	if j.findTime != 0 {
		out.FindTime = Known(j.findTime.duration())
	}
	if j.maxRetry != 0 {
		out.MaxRetry = Known(j.maxRetry)
	}
	out.BannedNow = j.active
	for _, b := range j.waiting {
		if b.t.waits().ban == b && b.t.state != active {
			out.BannedNow++
		}
	}
	if j.suspended > 0 {
		out.Unprotected = j.unprotected()
	}
	if j.h.e.o.Failing {
		out.Failing = j.failing()
	}
	if open {
		for _, t := range j.sorted(func(t *track) bool { return t.state != idle }) {
			out.OpenBans = append(out.OpenBans, *j.row(t, 0, EndedOpen, confidence(t.certain)))
			if j.h.e.o.Explain {
				out.OpenProofs = append(out.OpenProofs, t.banLines())
			}
		}
	}
	return out
}

// unprotected counts the bans that a stop lifted and whose time is not over.
func (j *jail) unprotected() (n int) {
	for _, t := range j.tracks {
		if t.state != suspended || t.waits().ban != nil {
			continue
		}
		if end := t.end(j); end == 0 || end > j.h.clock {
			n++
		}
	}
	return n
}

// failing counts the ids whose failures may still lead to a ban.
func (j *jail) failing() (n int) {
	from := j.h.clock - j.findWindow()
	for _, t := range j.tracks {
		if k := len(t.fails); k > 0 && t.fails[k-1].at >= from && t.fails[k-1].late < 0 && t.state != active {
			n++
		}
	}
	return n
}
