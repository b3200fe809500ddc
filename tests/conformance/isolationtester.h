/*
 * Included before PostgreSQL's isolationtester.c. It asks the server whether a session waits for another, by the
 * process that PQbackendPID() names. Behind a pooler that is no server process, and a session's server changes. Here
 * sessions go by their application_name instead, which isolationtester sets to "isolation/TEST/SESSION" and a pooler
 * carries from server to server: each check looks up the processes that bear the names at that moment.
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
		   "SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE application_name IN (''");
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

#define PQbackendPID(conn) shim_backend_pid(conn)
#define PQprepare(conn, statement, query, count, types) shim_prepare(conn, statement)
#define PQexecPrepared(conn, statement, count, values, lengths, formats, format) \
	shim_is_blocked(conn, statement, *(values))
