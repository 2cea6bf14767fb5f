import java.util.ArrayList;
import java.util.List;
import java.util.Scanner;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;
import org.flywaydb.core.api.callback.Event;
import org.flywaydb.core.api.configuration.FluentConfiguration;
import org.flywaydb.core.api.output.ValidateOutput;
import org.flywaydb.core.internal.info.MigrationInfoImpl;
import org.flywaydb.database.postgresql.PostgreSQLConfigurationExtension;

/**
 * The real Flyway for the tests, in one JVM. A command is a line, its words parted by tabs: verb, URL, user, password,
 * location, and settings as name=value. The answer is lines of fields parted by tabs, ended by a line with a dot.
 */
public final class Console {
    private static final String TRANSACTIONAL_LOCK = "flyway.postgresql.transactional.lock";

    public static void main(String[] ignored) {
        java.util.logging.LogManager.getLogManager().reset();
        Scanner commands = new Scanner(System.in, "UTF-8").useDelimiter("\n");
        while (commands.hasNext()) {
            String[] words = commands.next().split("\t");
            List<String> lines = new ArrayList<>();
            try {
                answer(words, lines);
            } catch (Exception error) {
                lines.add(fields("error", error.getMessage()));
            }
            byte[] text = (String.join("\n", lines) + "\n.\n").getBytes(java.nio.charset.StandardCharsets.UTF_8);
            System.out.write(text, 0, text.length);
            System.out.flush();
        }
    }

    private static void answer(String[] words, List<String> lines) {
        if (words[0].equals("events")) {
            for (Event event : Event.values()) {
                lines.add(fields(event.getId()));
            }
            return;
        }
        java.util.Map<String, String> properties = new java.util.HashMap<>();
        for (int i = 5; i < words.length; i++) {
            int at = words[i].indexOf('=');
            properties.put(words[i].substring(0, at), words[i].substring(at + 1));
        }
        // As Spring Boot sets it: a property of this name needs a library more.
        String transactional = properties.remove(TRANSACTIONAL_LOCK);
        FluentConfiguration configuration = Flyway.configure()
            .dataSource(words[1], words[2], words[3]).locations("filesystem:" + words[4]).configuration(properties);
        if (transactional != null) {
            configuration.getConfigurationExtension(PostgreSQLConfigurationExtension.class)
                .setTransactionalLock(Boolean.parseBoolean(transactional));
        }
        Flyway flyway = configuration.load();
        switch (words[0]) {
            case "info":
                for (MigrationInfo info : flyway.info().all()) {
                    lines.add(fields(info.getState(), info.getVersion(), info.getDescription(), info.getType(),
                        info.getScript(), info.getInstalledRank(), info.getAppliedChecksum(), info.getResolvedChecksum()));
                }
                break;
            case "transactions":
                for (MigrationInfo info : flyway.info().pending()) {
                    lines.add(fields(info.getScript(), transaction((MigrationInfoImpl) info)));
                }
                break;
            case "validate":
                for (ValidateOutput output : flyway.validateWithResult().invalidMigrations) {
                    lines.add(fields(output.errorDetails.errorCode, output.version, output.description));
                }
                break;
            case "migrate":
                lines.add(fields("done", flyway.migrate().migrationsExecuted));
                break;
            case "repair":
                flyway.repair();
                break;
            case "baseline":
                flyway.baseline();
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static String transaction(MigrationInfoImpl info) {
        try {
            return String.valueOf(info.canExecuteInTransaction());
        } catch (RuntimeException error) {
            return "refused: " + error.getMessage();
        }
    }

    private static String fields(Object... values) {
        List<String> texts = new ArrayList<>();
        for (Object value : values) {
            texts.add(value == null ? "\\N" : value.toString().replace("\\", "\\\\").replace("\t", "\\t")
                .replace("\n", "\\n").replace("\r", "\\r"));
        }
        return String.join("\t", texts);
    }
}
