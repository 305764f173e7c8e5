package ublk

// FetchMissing lets tests leave a device as a server does that dies while it fetches: from so many queues as it is told
// that the device has.
var FetchMissing = fetchMissing
