package publish

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// KindReturns is who came back after a ban's true end, and when.
const KindReturns = "returns"

// Everywhere is the source, host or jail of a row that is about all of them.
const Everywhere = "*"

// returnsRow is the input of a row of the kind `returns`.
type returnsRow struct {
	*offender.Returns
	ban, failure offender.Estimate
}

var returnsColumns = slices.Concat(
	[]column[returnsRow]{
		{"host", func(r *returnsRow) Value { return textValue(r.Place.Host) }},
		{"jail", func(r *returnsRow) Value { return textValue(r.Place.Jail) }},
		{"ends", func(r *returnsRow) Value { return intValue(r.Ends) }},
		{"reoffences", func(r *returnsRow) Value { return intValue(r.ban.Events) }},
		{"median_seconds", func(r *returnsRow) Value { return medianOf(&r.ban) }},
	},
	away("away", func(r *returnsRow) *offender.Estimate { return &r.ban }),
	[]column[returnsRow]{
		{"next_failures", func(r *returnsRow) Value { return intValue(r.failure.Events) }},
		{"next_failure_median_seconds", func(r *returnsRow) Value { return medianOf(&r.failure) }},
	},
	away("no_failure", func(r *returnsRow) *offender.Estimate { return &r.failure }),
	[]column[returnsRow]{
		{"banned_hours", func(r *returnsRow) Value { return floatValue(r.Banned.Hours()) }},
		{"failures_before_per_hour", perHour(func(before, _, _ float64) float64 { return before })},
		{"failures_during_per_hour", perHour(func(_, during, _ float64) float64 { return during })},
		{"failures_after_per_hour", perHour(func(_, _, after float64) float64 { return after })},
	},
)

// away makes the columns of the shares that have not come back.
func away(name string, of func(*returnsRow) *offender.Estimate) (cols []column[returnsRow]) {
	for i, mark := range offender.Marks {
		cols = append(cols, column[returnsRow]{name + "_" + within[i], func(r *returnsRow) Value {
			s, ok := of(r).Survival(mark)
			return maybe(correlate.Maybe[float64]{V: s, OK: ok}, floatValue)
		}})
	}
	return cols
}

func medianOf(e *offender.Estimate) Value {
	m, ok := e.Median()
	return maybe(correlate.Maybe[time.Duration]{V: m, OK: ok}, secondsValue)
}

// perHour makes the value of a column of failures for each hour in force.
func perHour(pick func(before, during, after float64) float64) func(*returnsRow) Value {
	return func(r *returnsRow) Value {
		before, during, after, ok := r.PerBannedHour()
		return maybe(correlate.Maybe[float64]{V: pick(before, during, after), OK: ok}, floatValue)
	}
}

// ReturnsRow makes a row of the kind `returns`.
func ReturnsRow(source string, r *offender.Returns) Row {
	return makeRow(source, returnsColumns, &returnsRow{r, r.ToBan.Estimate(), r.ToFailure.Estimate()})
}

// offenderDetail says what an offender's score is made of.
func offenderDetail(o *offender.Row) string {
	detail := scoreDetail(&o.Parts)
	if o.Standing == offender.None {
		return detail
	}
	return detail + "; " + o.Standing.String()
}

func scoreDetail(p *offender.Parts) string {
	n := func(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }
	return fmt.Sprintf("strength %s = mass %s with hosts %s and jails %s", n(p.Strength), n(p.Mass), n(p.Hosts), n(p.Jails))
}
