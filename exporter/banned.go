package main

import (
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// idsOf is the set of the ids of rows.
func idsOf(rows []offender.Row) map[string]bool {
	ids := make(map[string]bool, len(rows))
	for i := range rows {
		ids[rows[i].ID] = true
	}
	return ids
}

// sayBanned adds to the rows of a ranking where a source has their ids banned now.
func sayBanned(rows []offender.Row, source string, banned map[string][]correlate.Place) {
	for i := range rows {
		for _, at := range banned[rows[i].ID] {
			rows[i].BannedWhere = append(rows[i].BannedWhere, offender.Place{Source: source, Host: at.Host, Jail: at.Jail})
			rows[i].BannedNow = true
		}
	}
}

// sourceLabel names a source in outputs, where there is more than one.
func sourceLabel(name string, sources int) string {
	if sources == 1 {
		return ""
	}
	return name
}
