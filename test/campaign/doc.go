// Package campaign kills servers: at random moments under load, and at random
// instants of each verb. What was acknowledged must be there, the next verb must
// work, and nothing may be left behind.
//
// make test runs a few rounds on each kernel. make campaign runs as many as are
// asked for, under user-mode Linux unless told otherwise:
//
//	make campaign ROUNDS=300
//	make campaign ROUNDS=50 KERNEL='6.12 7.3' SEED=17 RUN=TestKillUnderLoad
//
// Every round prints its seed, by which it can be repeated: ROUNDS=1 SEED=thatone.
package campaign
