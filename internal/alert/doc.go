// Package alert tells people what happens to the devices of a host: by mail, by a command of
// theirs, by a webhook, in the journal, and by hooks.
//
// kinds.go is the table of what is told: one [Kind] for each alert, which is the same alert as one
// of contrib/prometheus/ublk-remap.rules.yml, with the same sentence, and has a section in
// docs/OPERATIONS.md, which messages quote. judge.go says when each of them is there.
//
// [Machine] is sans-I/O: it is handed rounds of what the servers tell, with their time, and answers
// with notices (a device, a kind, what became of it) and with messages for people. It tells on
// change and on increase; what was acknowledged is quiet until it gets worse; and what comes in
// floods is told in digests. All that it remembers is in [State], which [Store] keeps on the disk,
// so that a monitor that starts finds what happened while there was none.
//
// A way ([Way]) brings messages to people. [Dispatcher] has a queue for each way, which tries again
// what failed: no way keeps another. [Monitor] puts these together.
package alert
