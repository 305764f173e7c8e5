package ublk

// The user data of an entry on a queue's ring:
//
//	 63  62     56 55              16 15         0
//	+---+---------+------------------+------------+
//	| 0 |            the handler's own            |   backing I/O
//	+---+---------+------------------+------------+
//	| 1 |  kind   |        0         |    tag     |   this package's
//	+---+---------+------------------+------------+
const (
	ownUserData = 1 << 63
	kindShift   = 56

	kindCommand    = ownUserData | 1<<kindShift // fetch, or commit and fetch, of a tag
	kindWake       = ownUserData | 2<<kindShift // read of the eventfd
	kindRegister   = ownUserData | 3<<kindShift // registration of a request's buffer
	kindUnregister = ownUserData | 4<<kindShift // its end
	kindCancel     = ownUserData | 5<<kindShift // cancelling of the eventfd's read

	kindPrepare = ownUserData | 6<<kindShift // all tags of a queue, for the first time
	kindFetch   = ownUserData | 7<<kindShift // requests of a queue
	kindCommit  = ownUserData | 8<<kindShift // answers of a queue

	kindMask = ownUserData | 0x7f<<kindShift
	tagMask  = 1<<16 - 1
)

// UserDataBits is how many bits of user data a Handler may use: 0 to 1<<UserDataBits - 1.
const UserDataBits = 63
