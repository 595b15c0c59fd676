// Package publish gives results their forms: rows as CSV, JSON lines, tables
// and logfmt, the summary for a person, the metrics page, and the entries that
// are pushed back to Loki.
//
// Each kind of row has its columns defined once; every form is made of that
// definition, so that no two of them can differ. Ids, jails and hosts come from
// logs that attackers write into: each form makes them harmless in its own way.
// The package knows no clock and keeps no state but what /metrics serves.
package publish
