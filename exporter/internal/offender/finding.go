package offender

import "time"

// Finding is what was to be said of an id at a time: that it became a repeat
// or a persistent offender, or that it stood in the ranking of a full hour.
type Finding struct {
	// At is the hour, or the ban with which the standing was reached.
	At time.Time
	// Reached is the standing; None for the ranking of an hour.
	Reached Standing
	// Row is as of At. Its Rank is 0 but in the ranking of an hour.
	Row Row
}

// Finding says that an id has just reached a standing.
func (b *Board) Finding(id string, reached Standing) Finding {
	e := b.get(id)
	return Finding{At: timeOf(e.ban), Reached: reached, Row: b.row(0, e, b.newParts(e.ban))}
}

// Hour says the first top ids as of a full hour.
func (b *Board) Hour(hour time.Time, top int) (out []Finding) {
	for _, r := range b.Rank(hour, top).Rows {
		out = append(out, Finding{At: hour, Row: r})
	}
	return out
}
