/*
 * Included before PostgreSQL's isolationtester.c. It asks the server whether a session waits for another, by the
 * process that PQbackendPID() names. Behind a pooler that is no server process, and a session's server changes. Here
 * sessions go by their application_name instead, which isolationtester sets to "isolation/TEST/SESSION" and a pooler
 * carries from server to server: each check looks up the processes that bear the names at that moment.
 *
 * A notification's sender is found in the same way: the process that has run a step with NOTIFY bears the session's name
 * when the step has ended, and stands for that session from then on. That is asked by a connection of its own to
 * PostgreSQL itself (ISOLATION_SERVER): through a pooler it could be given that very process, and so rename it. A
 * process that another has got, or that is gone, before it was asked for stands for the session that ran the last such
 * step.
 *
 * An idle server may bear the name of the session that used it last. A session that waits is on an active server; an
 * idle one without a pin holds no lock, so that looking at it, too, changes nothing.
 */
#include "postgres_fe.h"

#include "libpq-fe.h"

#define MOST_SESSIONS 64

static struct
{
	int			pid;
	char	   *name;
}			shim_sessions[MOST_SESSIONS];
static int	shim_count = 0;
static PGconn *shim_direct = NULL;

/* Processes that have run a step with NOTIFY, and for which session last. */
static struct
{
	int			process;
	int			pid;
}			shim_senders[MOST_SESSIONS];
static int	shim_sender_count = 0;
static int	shim_last_sender = 0;

/* Of the connection whose step is under way: the session, if the step has NOTIFY. */
static int	shim_notifying = -1;

/* Called once for each connection, when it has its name; the first is the control connection. */
static inline int
shim_backend_pid(PGconn *conn)
{
	int			pid = PQbackendPID(conn);
	const char *name = PQparameterStatus(conn, "application_name");

	if (shim_count == MOST_SESSIONS || name == NULL)
	{
		fprintf(stderr, "too many sessions, or one without application_name\n");
		exit(1);
	}
	shim_sessions[shim_count].pid = pid;
	shim_sessions[shim_count++].name = strdup(name);
	return pid;
}

/* The one statement that is prepared: "is $1 blocked by any of the sessions?" */
static inline PGresult *
shim_prepare(PGconn *conn, const char *statement)
{
	char	   *query = malloc(512 + 128 * MOST_SESSIONS);
	int			i;

	strcpy(query, "SELECT coalesce(pg_catalog.bool_or("
		   "pg_catalog.pg_isolation_test_session_is_blocked(a.pid, ARRAY("
		   "SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE application_name IN (NULL");
	for (i = 1; i < shim_count; i++)
	{
		char	   *literal = PQescapeLiteral(conn, shim_sessions[i].name, strlen(shim_sessions[i].name));

		strcat(query, ",");
		strcat(query, literal);
		PQfreemem(literal);
	}
	strcat(query, ")))), false) FROM pg_catalog.pg_stat_get_activity(NULL) a "
		   "WHERE a.application_name = $1 AND a.backend_type = 'client backend' AND a.state = 'active'");
	return PQprepare(conn, statement, query, 0, NULL);
}

static inline PGresult *
shim_is_blocked(PGconn *conn, const char *statement, const char *pid)
{
	const char *name = "";
	int			i;

	for (i = 1; i < shim_count; i++)
		if (shim_sessions[i].pid == atoi(pid))
			name = shim_sessions[i].name;
	return PQexecPrepared(conn, statement, 1, &name, NULL, NULL, 0);
}

static inline int
shim_send_query(PGconn *conn, const char *query)
{
	int			pid = PQbackendPID(conn);
	int			i;

	if (strcasestr(query, "notify"))
		for (i = 1; i < shim_count; i++)
			if (shim_sessions[i].pid == pid)
				shim_notifying = i;
	return PQsendQuery(conn, query);
}

/* The process stands for the session from now on. */
static inline void
shim_note_sender(int process, int pid)
{
	int			i;

	for (i = 0; i < shim_sender_count && shim_senders[i].process != process; i++)
		;
	if (i == MOST_SESSIONS)
		return;
	if (i == shim_sender_count)
		shim_sender_count++;
	shim_senders[i].process = process;
	shim_senders[i].pid = pid;
}

static inline void
shim_connect(void)
{
	const char *server = getenv("ISOLATION_SERVER");

	if (shim_direct == NULL && server != NULL)
		shim_direct = PQconnectdb(server);
	if (shim_direct == NULL || PQstatus(shim_direct) != CONNECTION_OK)
	{
		fprintf(stderr, "ISOLATION_SERVER must say where PostgreSQL is\n");
		exit(1);
	}
}

static inline PGresult *
shim_get_result(PGconn *conn)
{
	PGresult   *result = PQgetResult(conn);
	PGresult   *found;
	const char *name;
	int			session = shim_notifying;
	int			i;

	if (result != NULL || session < 0 || shim_sessions[session].pid != PQbackendPID(conn))
		return result;
	shim_notifying = -1;
	name = shim_sessions[session].name;
	shim_last_sender = shim_sessions[session].pid;
	shim_connect();
	found = PQexecParams(shim_direct, "SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) "
						 "WHERE application_name = $1", 1, NULL, &name, NULL, NULL, 0);
	for (i = 0; i < PQntuples(found); i++)
		shim_note_sender(atoi(PQgetvalue(found, i, 0)), shim_sessions[session].pid);
	PQclear(found);
	return NULL;
}

static inline PGnotify *
shim_notifies(PGconn *conn)
{
	PGnotify   *notify = PQnotifies(conn);
	int			i;

	if (notify == NULL)
		return NULL;
	for (i = 0; i < shim_count; i++)
		if (shim_sessions[i].pid == notify->be_pid)
			return notify;
	for (i = 0; i < shim_sender_count; i++)
		if (shim_senders[i].process == notify->be_pid)
		{
			notify->be_pid = shim_senders[i].pid;
			return notify;
		}
	if (shim_last_sender != 0)
		notify->be_pid = shim_last_sender;
	return notify;
}

#define PQsendQuery(conn, query) shim_send_query(conn, query)
#define PQgetResult(conn) shim_get_result(conn)
#define PQnotifies(conn) shim_notifies(conn)
#define PQbackendPID(conn) shim_backend_pid(conn)
#define PQprepare(conn, statement, query, count, types) shim_prepare(conn, statement)
#define PQexecPrepared(conn, statement, count, values, lengths, formats, format) \
	shim_is_blocked(conn, statement, *(values))
