package publish

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// admission bounds the values of a label: the first so many names have series of
// their own, the rest is added up in `other`. A name's counters must not move
// from one series to another, so each keeps its place, until it has gone and
// another name needs it.
type admission struct {
	limit  int // 0 for no bound
	places map[string]place
	own    int
}

// place is where a name's values are shown.
type place uint8

const (
	unplaced place = iota
	ownPlace
	inOther
	nowhere // it had gone before it was needed, or another took its place
)

func newAdmission(limit int) admission { return admission{limit: limit, places: map[string]place{}} }

// applicant is a name that wants a place.
type applicant struct {
	first time.Time // its first line
	gone  bool      // nothing has been heard of it for too long
}

// review gives places to those that have none, in the order of their first lines, so
// that the order does not depend on when somebody looked. It tells how many go
// into `other`.
func (a *admission) review(all map[string]applicant) (refused int) {
	var fresh []string
	for name, who := range all {
		switch p := a.places[name]; {
		case p == unplaced && who.gone:
			a.places[name] = nowhere
		case p == unplaced, p == nowhere && !who.gone:
			fresh = append(fresh, name)
		}
	}
	slices.SortFunc(fresh, func(x, y string) int { return cmp.Or(all[x].first.Compare(all[y].first), strings.Compare(x, y)) })
	var gone []string // that have a place
	if a.limit > 0 && a.own+len(fresh) > a.limit {
		gone = a.vacant(all)
	}
	for _, name := range fresh {
		if a.limit > 0 && a.own >= a.limit && len(gone) > 0 {
			a.places[gone[0]] = nowhere
			gone = gone[1:]
			a.own--
		}
		if a.limit > 0 && a.own >= a.limit {
			a.places[name] = inOther
			refused++
			continue
		}
		a.places[name] = ownPlace
		a.own++
	}
	return refused
}

// vacant lists those with a place that have gone, or are not there any more.
func (a *admission) vacant(all map[string]applicant) (gone []string) {
	for name, p := range a.places {
		if who, there := all[name]; p == ownPlace && (!there || who.gone) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	return gone
}

// place names where a host's or jail's values are shown: under its own label, or
// in `other`.
func (a *admission) place(key, name string) (shown string, at place) {
	at = a.places[key]
	if at == inOther {
		return otherLabel, at
	}
	return label(name), at
}

// census gathers the hosts and jails of a view; forget is after how long without
// a line they have gone, 0 for never.
func census(v *View, forget time.Duration) (hosts, jails map[string]applicant) {
	hosts, jails = map[string]applicant{}, map[string]applicant{}
	for i := range v.Sources {
		src := &v.Sources[i]
		for k := range src.Report.Hosts {
			h := &src.Report.Hosts[k]
			hostGone := silent(v, h.LastLine, forget)
			hosts[hostKey(src.Name, h.Host)] = applicant{h.FirstLine, hostGone}
			for n := range h.Jails {
				j := &h.Jails[n]
				one := applicant{j.FirstLine, hostGone || jailGone(v, j, forget)}
				if old, seen := jails[j.Jail]; seen {
					one.gone = one.gone && old.gone
					if old.first.Before(one.first) {
						one.first = old.first
					}
				}
				jails[j.Jail] = one
			}
		}
	}
	return hosts, jails
}

func hostKey(source, host string) string { return source + "\xff" + host } // in no valid text
