import com.fasterxml.jackson.annotation.JsonAnySetter;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * The job in Kafka Streams: decode with Jackson, a dot product, publish JSON; with WINDOW=1, count and mean of f0 per
 * card in tumbling windows of 10 minutes, kept in a RocksDB window store with its cache and changelog.
 *
 * <p>Configured by the environment: KAFKA, INPUT, OUTPUT, GROUP, STATE, THREADS, GUARANTEE, COEFFICIENTS, WINDOW.
 */
public final class Scorer {
  private static final long WINDOW_MS = 600_000;
  private static final String STORE = "windows";

  private static double[] weights;
  private static double intercept;
  private static double countWeight;
  private static double meanWeight;

  private Scorer() {}

  /** An event; f0, f1, … go into an array as they come. */
  public static final class Event {
    public String id;
    public String card;
    public long time_ms;
    final double[] numbers = new double[weights.length];

    @JsonAnySetter
    public void setNumber(String name, double value) {
      numbers[Integer.parseInt(name, 1, name.length(), 10)] = value;
    }
  }

  /** What is published. */
  public static final class Score {
    public final String event_id;
    public final String entity;
    public final double score;

    Score(Event event, double added) {
      event_id = event.id;
      entity = event.card;
      double logit = intercept + added;
      for (int at = 0; at < weights.length; at++) {
        logit += weights[at] * event.numbers[at];
      }
      score = 1 / (1 + Math.exp(-logit));
    }
  }

  private static final ObjectMapper JSON = new ObjectMapper();
  private static ObjectReader reader;
  private static ObjectWriter writer;

  private static Event decode(byte[] value) {
    try {
      return reader.readValue(value);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  private static byte[] encode(Score score) {
    try {
      return writer.writeValueAsBytes(score);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** Keeps count and sum per card and window as "count,sum" in 16 bytes. */
  private static final class WithWindow implements FixedKeyProcessor<String, byte[], byte[]> {
    private FixedKeyProcessorContext<String, byte[]> context;
    private WindowStore<String, byte[]> windows;

    @Override
    public void init(FixedKeyProcessorContext<String, byte[]> context) {
      this.context = context;
      windows = context.getStateStore(STORE);
    }

    @Override
    public void process(FixedKeyRecord<String, byte[]> record) {
      Event event = decode(record.value());
      long start = event.time_ms / WINDOW_MS * WINDOW_MS;
      byte[] kept = windows.fetch(record.key(), start);
      java.nio.ByteBuffer state = java.nio.ByteBuffer.allocate(16);
      if (kept != null) {
        state.put(kept).rewind();
      }
      double count = state.getDouble(0) + 1;
      double sum = state.getDouble(8) + event.numbers[0];
      windows.put(record.key(), state.putDouble(0, count).putDouble(8, sum).array(), start);
      context.forward(record.withValue(encode(new Score(event, countWeight * count + meanWeight * sum / count))));
    }
  }

  public static void main(String[] arguments) throws IOException {
    JsonNode said = JSON.readTree(new File(System.getenv("COEFFICIENTS")));
    weights = new double[said.get("weights").size()];
    for (int at = 0; at < weights.length; at++) {
      weights[at] = said.get("weights").get(at).asDouble();
    }
    intercept = said.get("intercept").asDouble();
    countWeight = said.get("count").asDouble();
    meanWeight = said.get("mean").asDouble();
    reader = JSON.readerFor(Event.class);
    writer = JSON.writerFor(Score.class);

    StreamsBuilder builder = new StreamsBuilder();
    KStream<String, byte[]> events =
        builder.stream(System.getenv("INPUT"), Consumed.with(Serdes.String(), Serdes.ByteArray()));
    KStream<String, byte[]> scores;
    if ("1".equals(System.getenv("WINDOW"))) {
      builder.addStateStore(
          Stores.windowStoreBuilder(
                  Stores.persistentWindowStore(
                      STORE, Duration.ofMinutes(20), Duration.ofMillis(WINDOW_MS), false),
                  Serdes.String(),
                  Serdes.ByteArray())
              .withCachingEnabled());
      scores = events.processValues(WithWindow::new, STORE);
    } else {
      scores = events.mapValues(value -> encode(new Score(decode(value), 0)));
    }
    scores.to(System.getenv("OUTPUT"), Produced.with(Serdes.String(), Serdes.ByteArray()));

    Properties settings = new Properties();
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("KAFKA"));
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("GROUP"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("STATE") + "/streams");
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, System.getenv("GUARANTEE"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, System.getenv("THREADS"));
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "100");
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
    settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse
              .SHUTDOWN_APPLICATION;
        });
    streams.start();
  }
}
